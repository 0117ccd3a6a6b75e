"""The versions that versions.env pins."""

from functools import cache

from services.cluster.options import ROOT


@cache
def versions() -> dict[str, str]:
    """Name to value."""
    lines = (ROOT / "versions.env").read_text().splitlines()
    return dict(line.split("=", 1) for line in lines if line[:1].isalpha())
