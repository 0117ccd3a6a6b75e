"""TCP ports for the servers that tests and benchmarks start."""

import random

from services.local.net import is_free

_PORTS = iter(random.sample(range(20_000, 32_000), 2_000))
"""Below the range that the kernel gives to outgoing connections, which could take a port between
its choice and its use. Random, because several sessions may run at once.
"""


def free_port() -> int:
    """A TCP port that nothing listens on; never the same one twice."""
    return next(port for port in _PORTS if is_free(port))
