"""The errors that services share, sorted by what to do about them.

Temporary: wait and try again. Permanent, about one record: a dead letter. Anything else stops the
process.
"""


class MoodstreamError(Exception):
    """Base of every error raised on purpose by this project."""


class SettingsError(MoodstreamError):
    """A setting is missing or wrong; the message names the environment variable and the fix."""


class TemporaryError(MoodstreamError):
    """A dependency is away. The same call can succeed later; no record is to blame."""


class BadPostError(MoodstreamError):
    """One record can never be stored or scored.

    `reason` is a short constant word (a metric label), `detail` a sentence for people.
    """

    def __init__(self, reason: str, detail: str) -> None:
        super().__init__(f"{reason}: {detail}")
        self.reason = reason
        self.detail = detail
