"""What can go wrong with a cluster, each in words for a person."""

from services.core.errors import MoodstreamError


class ClusterError(MoodstreamError):
    """The cluster, or a tool that talks to it, refuses or does not answer."""


class NotReadyError(ClusterError):
    """Something has not become ready in time."""

    def __init__(self, what: str, waiting_for: str, seconds: float) -> None:
        super().__init__(f"{what} is not ready after {seconds:.0f} s: {waiting_for}")
        self.what = what
        self.waiting_for = waiting_for
