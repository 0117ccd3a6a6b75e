"""What NetworkPolicies let through, worked out as the Kubernetes API describes them."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network
from typing import Any


@dataclass(frozen=True)
class Place:
    """A pod, or without a namespace something that is none."""

    name: str
    namespace: str = ""
    labels: dict[str, str] = field(default_factory=dict, compare=False)
    ports: dict[int, str] = field(default_factory=dict, compare=False)
    """The names of the ports that it listens on, by number."""
    address: str = "10.244.0.9"
    """A pod's by default: an ipBlock can hold pods too."""


def allowed(
    policies: Iterable[dict[str, Any]], namespace: str, source: Place, target: Place, port: int
) -> bool:
    """Whether the policies of one namespace let `source` open a TCP connection to the target."""
    policies = list(policies)
    return all(
        _open(policies, namespace, direction, here, there, target, port)
        for direction, here, there in (("Egress", source, target), ("Ingress", target, source))
    )


def _open(
    policies: list[dict[str, Any]],
    namespace: str,
    direction: str,
    here: Place,
    there: Place,
    target: Place,
    port: int,
) -> bool:
    if here.namespace != namespace:
        return True
    specs = [
        policy["spec"]
        for policy in policies
        if direction in _types(policy["spec"])
        and _selects(policy["spec"]["podSelector"], here.labels)
    ]
    side = "to" if direction == "Egress" else "from"
    return not specs or any(
        (not rule.get(side) or any(_is(peer, there, namespace) for peer in rule[side]))
        and (not rule.get("ports") or any(_covers(p, target, port) for p in rule["ports"]))
        for spec in specs
        for rule in spec.get(direction.lower()) or []
    )


def _types(spec: dict[str, Any]) -> list[str]:
    return spec.get("policyTypes") or ["Ingress", *(["Egress"] if "egress" in spec else [])]


def _is(peer: dict[str, Any], place: Place, namespace: str) -> bool:
    if "ipBlock" in peer:
        block = peer["ipBlock"]
        address = ip_address(place.address)
        return address in ip_network(block["cidr"]) and not any(
            address in ip_network(hole) for hole in block.get("except", [])
        )
    if not place.namespace:
        return False
    its = {"kubernetes.io/metadata.name": place.namespace}
    if "namespaceSelector" in peer:
        if not _selects(peer["namespaceSelector"], its):
            return False
    elif place.namespace != namespace:
        return False
    return _selects(peer.get("podSelector", {}), place.labels)


def _selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    return all(
        labels.get(key) == value for key, value in (selector.get("matchLabels") or {}).items()
    ) and all(_meets(rule, labels) for rule in selector.get("matchExpressions") or [])


def _meets(rule: dict[str, Any], labels: dict[str, str]) -> bool:
    value = labels.get(rule["key"])
    return {
        "In": value in rule.get("values", []),
        "NotIn": value not in rule.get("values", []),
        "Exists": value is not None,
        "DoesNotExist": value is None,
    }[rule["operator"]]


def _covers(rule: dict[str, Any], target: Place, port: int) -> bool:
    if rule.get("protocol", "TCP") != "TCP":
        return False
    first = rule.get("port")
    if first is None:
        return True
    if isinstance(first, str):
        return target.ports.get(port) == first
    return first <= port <= rule.get("endPort", first)
