"""Every test here that takes a `case` runs for each chart with each set of values."""

import pytest

from tests.charts.rendering import cases


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """A file that is added to a chart's ci folder is a case, without a word here."""
    if "case" in metafunc.fixturenames:
        metafunc.parametrize("case", cases(), ids=str)
