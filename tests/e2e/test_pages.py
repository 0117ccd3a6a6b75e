"""What the pages tell people to look at with, looked at: every call of kubectl that only reads."""

import re

import pytest

from tests import pages
from tests.e2e.deployed import Platform, run
from tests.pages import Call

_READ = {"describe", "get", "logs", "top"}
_OF_OUR_NAMESPACE = re.compile(r"(-n|--namespace)[ =]moodstream\b")
_PLACEHOLDER = re.compile(r"\b[A-Z]{4,}\b")
"""As in `logs job/NAME`."""
_NOT_EVERYWHERE = {"scheduledbackup", "backups.postgresql.cnpg.io"}
"""Only the production profile makes backups."""
_MAY_BE_EMPTY = {"events", "psql"}
"""Events are forgotten after an hour, and a query may find no row."""


def _reads(call: Call) -> bool:
    words = set(call.words)
    query = call.words[-1] if "psql" in words else ""
    reads = bool(words & _READ) and not words & {"create", "exec"}
    return (reads and len(call.words) > 3) or query.upper().startswith("SELECT")


_CALLS = {
    str(call): call
    for path in pages.PAGES
    for call in pages.calls(path)
    if call.program == "kubectl"
    and _OF_OUR_NAMESPACE.search(str(call))
    and _reads(call)
    and ("psql" in call.words or not _PLACEHOLDER.search(" ".join(call.words[3:])))
    and not _NOT_EVERYWHERE & set(call.words)
}


def test_there_are_calls_of_every_kind() -> None:
    assert {word for call in _CALLS.values() for word in call.words} >= {*_READ, "psql"}


@pytest.mark.parametrize("call", _CALLS.values(), ids=_CALLS)
def test_a_look_that_a_page_advises_shows_something(attached: Platform, call: Call) -> None:
    namespace = [attached.namespace if word == "moodstream" else word for word in call.words[:3]]

    shown = run(*namespace, *call.words[3:])

    assert shown or _MAY_BE_EMPTY & set(call.words)
