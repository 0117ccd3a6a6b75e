"""Looks up the digest of every third-party image and writes it into the production profile. Run by
`make pin`, where there is a network; a digest that cannot be looked up is never written.
"""

import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Final

from services.cluster.command import CommandError, found, run
from services.cluster.errors import ClusterError
from services.cluster.options import ROOT
from services.cluster.versions import versions

_PROFILE: Final = ROOT / "manifests" / "profiles" / "production"
_SUFFIX: Final = "_IMAGE"
_DIGEST: Final = re.compile(r"sha256:[0-9a-f]{64}")
_SECONDS: Final = 60.0
_TOOLS: Final[Mapping[str, Callable[[str], list[str]]]] = {
    "crane": lambda image: ["crane", "digest", image],
    "skopeo": lambda image: [
        *("skopeo", "inspect", "--no-tags", "--format", "{{.Digest}}"),
        f"docker://{image}",
    ],
    "docker": lambda image: [
        *("docker", "buildx", "imagetools", "inspect", image),
        *("--format", "{{.Manifest.Digest}}"),
    ],
}
"""Program to the command that prints an image's digest: that of the index, so that every machine
takes its own architecture's image.
"""


def images(known: Mapping[str, str]) -> list[str]:
    """The images among the versions, without digests."""
    return [value.split("@")[0] for name, value in known.items() if name.endswith(_SUFFIX)]


def digest(image: str) -> str:
    """Asks the image's registry; raises ClusterError when no tool here gets an answer."""
    problems = []
    for name, arguments in _TOOLS.items():
        if not found(name):
            continue
        try:
            answer = run(*arguments(image), seconds=_SECONDS).strip()
        except CommandError as exc:
            problems.append(str(exc))
            continue
        if _DIGEST.fullmatch(answer):
            return answer
        problems.append(f"{name} answers {answer[:80]!r}")
    if not problems:
        raise ClusterError(f"none of {', '.join(_TOOLS)} is installed: one of them asks registries")
    raise ClusterError(f"{image}: {'; '.join(problems)}")


def pinned(text: str, image: str, found_digest: str) -> str:
    """The text with the digest after every mention of the image."""
    mention = re.compile(rf"(?<![\w./-]){re.escape(image)}(@sha256:[0-9a-f]{{64}})?(?![\w.@-])")
    return mention.sub(f"{image}@{found_digest}", text)


def write(folder: Path, digests: Mapping[str, str]) -> list[str]:
    """Pins the images in every file of the folder; the images that none of them names."""
    named = set()
    for path in sorted(folder.glob("*.yaml")):
        text = path.read_text()
        for image, value in digests.items():
            after = pinned(text, image, value)
            if f"{image}@{value}" in after:
                named.add(image)
            text = after
        path.write_text(text)
    return [image for image in digests if image not in named]


def main() -> None:
    """All or nothing: one image that cannot be looked up leaves every file as it is."""
    try:
        digests = {image: digest(image) for image in images(versions())}
    except ClusterError as exc:
        sys.exit(f"moodstream: nothing was written: {exc}")
    unnamed = write(_PROFILE, digests)
    for image, value in digests.items():
        note = "  (not in the production profile)" if image in unnamed else ""
        sys.stdout.write(f"{image}@{value}{note}\n")
    sys.stdout.write("next: git diff manifests/profiles/production\n")


if __name__ == "__main__":
    main()
