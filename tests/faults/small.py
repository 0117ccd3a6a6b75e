"""A disk that is small enough to be filled."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Final

from tests.missing import missing

_ZEROS: Final = bytes(65_536)


class Disk:
    """A mounted disk, and the file that fills it."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._filler = folder, folder / "filler"

    def fill(self) -> None:
        """Takes all the space that is left."""
        with suppress(OSError), self._filler.open("wb", buffering=0) as filler:
            while filler.write(_ZEROS):
                pass

    def left(self) -> int:
        """Free bytes."""
        state = os.statvfs(self._folder)
        return state.f_bavail * state.f_frsize

    def free(self) -> None:
        """Gives back what `fill` took."""
        self._filler.unlink()


@contextmanager
def small_disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Mounts a tmpfs at a folder that is made for it; skips the test where that is forbidden."""
    folder.mkdir(parents=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={megabytes}m", "tmpfs", str(folder)],  # noqa: S607
        capture_output=True,
        check=False,
    )
    if mounted.returncode:
        missing("only root may mount a small disk")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)  # noqa: S607
