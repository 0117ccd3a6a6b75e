"""The place between two stages, with room for one batch.

One and no more: while a batch waits here, the records behind it stay with the stage before and form
a larger batch. In a longer queue small batches would wait in line, at 250 posts/s for 35 ms more.
"""

from threading import Condition
from typing import Generic, TypeVar

T = TypeVar("T")


class Slot(Generic[T]):
    """Handed over between one thread that puts and one that takes."""

    def __init__(self) -> None:
        self._item: T | None = None
        self._changed = Condition()

    def wait_until_free(self, seconds: float) -> bool:
        """Whether there is room, now or within the time. It stays free until the next `put`."""
        with self._changed:
            return self._changed.wait_for(lambda: self._item is None, seconds)

    def put(self, item: T) -> None:
        """Fills the slot, which must be free."""
        with self._changed:
            if self._item is not None:
                raise RuntimeError("the slot is taken")
            self._item = item
            self._changed.notify_all()

    def take(self, seconds: float) -> T | None:
        """What is in the slot, now or within the time; None when nothing came."""
        with self._changed:
            self._changed.wait_for(lambda: self._item is not None, seconds)
            item, self._item = self._item, None
            self._changed.notify_all()
            return item
