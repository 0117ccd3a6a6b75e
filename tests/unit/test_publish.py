"""What the publisher makes of Kafka's answers."""

from collections import deque

from services.producer.publish import Publisher


class Answer:
    """A future that is answered, well, between two looks at it."""

    def __init__(self, *done: bool) -> None:
        self._done = deque(done)
        self.exception = None

    @property
    def is_done(self) -> bool:
        return self._done.popleft() if len(self._done) > 1 else self._done[0]


def test_a_post_that_is_acknowledged_while_others_are_counted_is_no_failure() -> None:
    settled: list[int] = []
    publisher = Publisher(
        lambda: None, "posts", 10, acknowledged=settled.append, patient=lambda: True
    )
    publisher._in_flight.extend([Answer(True), Answer(False, True)])

    publisher.settle()
    publisher.settle()

    assert sum(settled) == 2
