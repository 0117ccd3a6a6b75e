"""Ends what a demo that died has left running: `python -m services.local.guard HOME`, started by
the demo and tied to it by standard input, which ends when the demo does, however it does.

The kernel has then asked every part to stop (child.py). Most do so within seconds; one that waits
for another that is gone may not: Kafka's shutdown, for one, waits up to 5 min for its controller.
"""

import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from services.local.process import kill_late

PATIENCE_SECONDS: Final = 30.0
"""How long a part may take to stop before it is killed, which loses nothing that was
acknowledged.
"""


@contextmanager
def guarded(home: Path) -> Iterator[None]:
    """While entered, the parts whose pid files are below `home` do not outlive this process by more
    than PATIENCE_SECONDS.
    """
    guard = subprocess.Popen(
        [sys.executable, "-m", "services.local.guard", str(home.absolute())],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,  # Ctrl-C in the terminal is not for it.
    )
    try:
        yield
    finally:
        guard.communicate()


def main() -> None:
    """Waits for the end of standard input, then for the parts, then kills what is left of them."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    sys.stdin.read()
    kill_late(Path(sys.argv[1]), PATIENCE_SECONDS)


if __name__ == "__main__":
    main()
