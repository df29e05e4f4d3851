"""A wall clock that a test sets for another program: CLOCK_REALTIME as an LD_PRELOAD shifts it, live, by a file."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from tests.support import need

SOURCE = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>
static long shift(void) {
    char text[32] = {0};
    const char *path = getenv("WRONG_CLOCK");
    int fd = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (fd < 0) return 0;
    if (read(fd, text, sizeof text - 1) < 0) text[0] = 0;
    close(fd);
    return atol(text);
}
int clock_gettime(clockid_t id, struct timespec *at) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int done = real(id, at);
    if (!done && id == CLOCK_REALTIME) at->tv_sec += shift();
    return done;
}
time_t time(time_t *to) {
    struct timespec at;
    clock_gettime(CLOCK_REALTIME, &at);
    if (to) *to = at.tv_sec;
    return at.tv_sec;
}
int gettimeofday(struct timeval *to, void *zone) {
    struct timespec at;
    (void)zone;
    clock_gettime(CLOCK_REALTIME, &at);
    to->tv_sec = at.tv_sec;
    to->tv_usec = at.tv_nsec / 1000;
    return 0;
}
"""


class WrongClock:
    """``environment`` makes a program and its children go by it; ``set`` moves it."""

    def __init__(self, folder: Path) -> None:
        compiler = shutil.which("cc") or shutil.which("gcc")
        need(compiler, "there is no C compiler")
        (folder / "clock.c").write_text(SOURCE)
        library = folder / "clock.so"
        subprocess.run([str(compiler), "-shared", "-fPIC", "-o", library, folder / "clock.c", "-ldl"], check=True)
        self._file = folder / "shift"
        self.set(0)
        self.environment = {"LD_PRELOAD": str(library), "WRONG_CLOCK": str(self._file)}

    def set(self, seconds: int) -> None:
        """How far ahead of the right time it is; below 0, behind."""
        new = self._file.with_name("shift.new")
        new.write_text(f"{seconds}\n")
        new.rename(self._file)
