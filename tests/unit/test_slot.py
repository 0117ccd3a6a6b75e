"""The place between two stages."""

from threading import Thread

import pytest

from services.consumer.slot import Slot


def test_what_is_put_is_taken_once() -> None:
    slot: Slot[str] = Slot()

    slot.put("batch")

    assert slot.take(0) == "batch"
    assert slot.take(0) is None


def test_it_has_room_for_one() -> None:
    slot: Slot[str] = Slot()
    slot.put("first")

    assert not slot.wait_until_free(0)
    with pytest.raises(RuntimeError):
        slot.put("second")


def test_a_taker_wakes_a_waiting_putter_and_the_other_way_round() -> None:
    slot: Slot[int] = Slot()
    taken: list[int | None] = []
    taker = Thread(target=lambda: taken.extend(slot.take(5) for _ in range(100)))

    taker.start()
    for number in range(100):
        assert slot.wait_until_free(5)
        slot.put(number)
    taker.join(5)

    assert taken == list(range(100))
