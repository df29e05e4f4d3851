"""It takes until it is refused."""

import resource

import pytest
from plugin import hoard


def test_it_grows_until_refused() -> None:
    old = resource.getrlimit(resource.RLIMIT_AS)
    used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 64 * 1024 * 1024, old[1]))
    try:
        with pytest.raises(MemoryError):
            hoard({})
    finally:
        resource.setrlimit(resource.RLIMIT_AS, old)
