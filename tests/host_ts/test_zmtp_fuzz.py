"""Random bytes of a ROUTER give the same messages to the TypeScript client, to libzmq and to the daemon's codec, but
for what is in the tables here, each with its reason.

``APEXTEST_STREAMS=100000`` makes the slow run as long.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.host_ts.conftest import COMPILED, Scenario
from tests.host_ts.zmtp_bytes import TAIL, by_libzmq, by_our_codec, by_typescript, streams

BITS = "libzmq ignores the reserved bits of a frame's flags; ours end the connection"
HANDSHAKE = "libzmq takes a READY that does not say whose it is; ours want the type of a peer that they can talk to"
BOUND = "ours bound a command to 4 KiB"
COMMANDS = "libzmq and the client skip commands that they do not know; the daemon ends the connection"
CLIENT_DIFFERS = {
    "ERROR": "libzmq heeds ERROR in the handshake only; the client takes the peer's word at any time",
    "SUBSCRIBE": "libzmq gives its user the command as if it were a message",
    "READY whose property is cut": HANDSHAKE, "READY without a type": HANDSHAKE,
    "READY with 5 kB of metadata": BOUND, "command of 5 kB": BOUND,
    "reserved flag": BITS, "noise": BITS, "cut": f"what comes after it is read as other frames: {BITS}",
}
"""What is odd in a stream -> why libzmq's DEALER and ours may give different messages."""
DAEMON_DIFFERS = {
    "ERROR": COMMANDS, "SUBSCRIBE": COMMANDS, "unknown command": COMMANDS, "command without a name": COMMANDS,
    "command whose name is cut": COMMANDS, "second READY": COMMANDS,
    "command with MORE": "no command has a frame after it; libzmq and the client do not look at the flag",
    "command of 5 kB": BOUND, "READY with 5 kB of metadata": BOUND,
    "READY whose property is cut": HANDSHAKE, "READY without a type": HANDSHAKE,
    "reserved flag": BITS, "noise": BITS, "cut": BITS,
}
"""The same for whether libzmq and the daemon's codec read a stream to its end."""
RARE = {"cut"}
"""Of the daemon's: seldom seen, since what comes after the cut must look like a frame with reserved bits."""
COUNT_SLOW = int(os.environ.get("APEXTEST_STREAMS", "10000"))
DEALER = COMPILED / "dealer.mjs"


def differences(folder: Path, seed: int, count: int) -> tuple[Counter[str], Counter[str]]:
    """By what is odd: how often client and libzmq differ, and how often daemon and libzmq do."""
    wanted = list(streams(seed, count))
    theirs = by_libzmq(folder, wanted)
    ours = by_typescript(folder, wanted, ["node", str(DEALER)])
    client: Counter[str] = Counter()
    daemon: Counter[str] = Counter()
    for stream, libzmq, typescript in zip(wanted, theirs, ours, strict=True):
        client[stream.odd] += libzmq != typescript
        daemon[stream.odd] += (TAIL in libzmq) != (TAIL in by_our_codec(stream))
    return +client, +daemon


def test_streams_mean_the_same_to_the_client_to_libzmq_and_to_the_daemon(scenario: Scenario, tmp_path: Path) -> None:
    client, daemon = differences(tmp_path, 7, 300)
    assert set(client) <= set(CLIENT_DIFFERS), client
    assert set(daemon) <= set(DAEMON_DIFFERS), daemon


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_many_streams_mean_the_same_and_every_row_of_the_tables_is_seen(scenario: Scenario, tmp_path: Path) -> None:
    client, daemon = differences(tmp_path, 11, COUNT_SLOW)
    print(client, daemon)
    assert set(client) == set(CLIENT_DIFFERS)
    assert set(daemon) | RARE == set(DAEMON_DIFFERS)
