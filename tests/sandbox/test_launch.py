"""A signal that comes while a process is being started does not leave it with half of its start."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

PROGRAM = '''
import os, signal, subprocess, sys, threading
from apex_exec.daemon.signals import Ended, Signals
from apex_exec.sandbox import bare

real = subprocess.Popen  # the child has its own
def interrupted(*args, **options):
    child = real(*args, **options)
    os.kill(os.getpid(), signal.SIGTERM)  # the main thread has it blocked: the kernel gives it to the other one
    threading.Event().wait(0.2)
    return child

Signals()
threading.Thread(target=threading.Event().wait, args=(60,), daemon=True).start()
bare.subprocess.Popen = interrupted
process = bare.BareProcess(subprocess.check_call, (["echo", "the child ran"],), "child", keeps_environment=True,
                           ignores_ends=True)
try:
    process.start()
except Ended:
    print("ended", flush=True)
else:
    print("never ended", flush=True)
os.wait()
'''


def test_a_signal_in_another_thread_waits_until_the_new_process_has_been_sent_everything(tmp_path: Path) -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False,
                          env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])})
    assert done.returncode == 0 and sorted(done.stdout.splitlines()) == ["ended", "the child ran"], done
    assert "Traceback" not in done.stderr
