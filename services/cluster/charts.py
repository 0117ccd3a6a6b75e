"""Our three charts: rendered before anything is changed, installed in their order, removed in the
opposite one.
"""

from collections.abc import Mapping
from typing import Any, Final

import yaml

from services.cluster import helm
from services.cluster.errors import ClusterError
from services.cluster.kube import Kube, Object
from services.cluster.options import NAMESPACE, ROOT, Options

ORDER: Final = ("platform", "mlflow", "moodstream")
_PROFILES: Final = ROOT / "manifests" / "profiles"
_BINARY: Final = {"Ki": 2**10, "Mi": 2**20, "Gi": 2**30, "Ti": 2**40}
_DECIMAL: Final = {"m": 1e-3, "k": 1e3, "M": 1e6, "G": 1e9, "T": 1e12}


class ValuesError(ClusterError):
    """The folder of values is not one."""


def release(name: str, options: Options, image_tag: str | None) -> helm.Release:
    """One of ours, with the profile's values below the person's."""
    files = [_PROFILES / options.profile / f"{name}.yaml"]
    if options.values is not None:
        files.append(options.values / f"{name}.yaml")
    return helm.Release(
        name,
        str(ROOT / "charts" / name),
        NAMESPACE,
        values=[path for path in files if path.exists()],
        settings={"image.tag": image_tag} if image_tag else {},
    )


def check_values(options: Options) -> None:
    """Raises ValuesError when VALUES is no folder of values for our charts."""
    folder = options.values
    if folder is None:
        return
    names = [f"{name}.yaml" for name in ORDER]
    if not folder.is_dir():
        raise ValuesError(f"VALUES={folder} is not a folder; it holds any of {', '.join(names)}")
    found = sorted(path.name for path in folder.glob("*.y*ml"))
    unknown = [name for name in found if name not in names]
    if unknown or not found:
        raise ValuesError(
            f"VALUES={folder} holds {', '.join(unknown) or 'no values'}; it may hold any of "
            f"{', '.join(names)}, and no other YAML"
        )
    for name in found:
        _parse(folder / name)


def render(options: Options) -> dict[str, list[Object]]:
    """What each chart would make; raises when one refuses a value."""
    check_values(options)
    return {name: helm.render(release(name, options, None)) for name in ORDER}


def install(cluster: Kube, name: str, options: Options, image_tag: str | None) -> None:
    """Installs or upgrades one of ours."""
    helm.apply(cluster, release(name, options, image_tag))


def requests(objects: list[Object]) -> tuple[float, float]:
    """CPUs and bytes of memory that the objects ask a cluster for, custom resources included."""
    cpus = memory = 0.0
    for thing in objects:
        spec = thing.get("spec") or {}
        if thing["kind"] in ("CronJob", "Job", "Pod"):
            continue
        count = spec.get("replicas", spec.get("instances", 1))
        for found in _requests(spec):
            cpus += count * quantity(found.get("cpu", 0))
            memory += count * quantity(found.get("memory", 0))
    return cpus, memory


def quantity(value: str | int | float) -> float:
    """A Kubernetes quantity as a number."""
    text = str(value)
    for suffix, factor in (*_BINARY.items(), *_DECIMAL.items()):
        if text.endswith(suffix):
            return float(text.removesuffix(suffix)) * factor
    return float(text)


def object_store(objects: list[Object]) -> str | None:
    """The S3 address that the platform's objects are told."""
    for thing in objects:
        if thing["kind"] == "ConfigMap" and thing["metadata"]["name"] == "object-store":
            return str(thing["data"]["endpoint"])
    return None


def _requests(value: Any) -> list[Mapping[str, Any]]:
    if isinstance(value, list):
        return [found for item in value for found in _requests(item)]
    if not isinstance(value, Mapping):
        return []
    own = []
    for name, inner in value.items():
        if name == "resources" and isinstance(inner, Mapping) and "requests" in inner:
            own.append(inner["requests"])
        elif name != "initContainers":
            own += _requests(inner)
    return own


def _parse(path: Any) -> None:
    try:
        values = yaml.safe_load(path.read_text())
    except yaml.YAMLError as exc:
        raise ValuesError(f"{path} is not YAML: {' '.join(str(exc).split())}") from exc
    if values is not None and not isinstance(values, dict):
        raise ValuesError(f"{path} holds no values: it must be a mapping")
