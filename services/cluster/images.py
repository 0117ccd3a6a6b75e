"""Our own images: built here, and brought to the cluster's nodes."""

import json
import shlex
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

from services.cluster.command import CommandError, follow, run
from services.cluster.options import KIND_CLUSTER, LOADER_KIND, LOADER_NONE, ROOT

_BUILD: Final = ROOT / "images" / "build"
_LOAD_SECONDS: Final = 900.0


def provide(loader: str, say: Callable[[str], None]) -> str | None:
    """Builds what has changed and brings it to the nodes; the tag, or None where nothing is built
    and the charts' own version is meant.
    """
    if loader == LOADER_NONE:
        say("nothing is built or loaded: LOADER=none")
        return None
    say("building (the first time takes some minutes)")
    names = follow(str(_BUILD), say=say).split()
    if not names:
        raise CommandError(f"{_BUILD} has named no image")
    tags = {name.rpartition(":")[2] for name in names}
    if len(tags) != 1:
        raise CommandError(f"{_BUILD} has named images of several tags: {', '.join(sorted(tags))}")
    if loader == LOADER_KIND:
        _load_into_kind(names, say)
    else:
        say(f"{loader}: {len(names)} images")
        run(*shlex.split(loader), *names, seconds=_LOAD_SECONDS)
    return tags.pop()


def _load_into_kind(names: list[str], say: Callable[[str], None]) -> None:
    absent = sorted(set(names) - _on_nodes())
    if not absent:
        say("the nodes have them all")
        return
    say(f"loading {len(absent)} images")
    # `kind load docker-image` fails where Docker keeps its images in containerd.
    with tempfile.TemporaryDirectory() as folder:
        archive = Path(folder) / "images.tar"
        run("docker", "save", "--output", str(archive), *absent, seconds=_LOAD_SECONDS)
        run(
            *("kind", "load", "image-archive", str(archive), "--name", KIND_CLUSTER),
            seconds=_LOAD_SECONDS,
        )


def _on_nodes() -> set[str]:
    """Images that every node has."""
    nodes = run("kind", "get", "nodes", "--name", KIND_CLUSTER).split()
    found: list[set[str]] = []
    for node in nodes:
        listed = json.loads(run("docker", "exec", node, "crictl", "images", "--output", "json"))
        found.append({tag for image in listed["images"] for tag in image.get("repoTags") or []})
    return set.intersection(*found) if found else set()
