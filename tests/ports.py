"""TCP ports for the servers that tests and benchmarks start."""

import os
import random

from services.local.net import is_free

_WORKER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_WORKERS = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
_RANGE = range(20_000 + _WORKER, 32_000, _WORKERS)
_PORTS = iter(random.sample(_RANGE, len(_RANGE)))
"""Below the range that the kernel gives to outgoing connections, which could take a port between
its choice and its use. Random, because several sessions may run at once; the workers of one share
none, because a port may be chosen long before a server listens on it.
"""


def free_port() -> int:
    """A TCP port that nothing listens on; never the same one twice."""
    return next(port for port in _PORTS if is_free(port))
