"""Every pod of ours is restricted, bounded, observed, and configured with settings that exist."""

import importlib.util
import re
from typing import Any

from docs.reference import GROUPS
from tests.charts.pods import Pod, pods
from tests.charts.rendering import PROFILES, Case, everything, objects

_MAY_CALL_THE_API = {"promoter"}
_OF_NO_GROUP = {"MOODSTREAM_SECRETS_DIR"}
_GENERATED_ONCE = {
    "object-store",
    "warehouse-mlflow",
    "warehouse-reader",
    "warehouse-dashboard",
    "moodstream-author-key",
    "moodstream-editor",
    "moodstream-webhook",
}
"""Made by `make cluster-up` where the user has none."""
_OF_EVERY_NAMESPACE = {"kube-root-ca.crt"}
"""Made by Kubernetes."""


def test_every_container_is_restricted(case: Case) -> None:
    for pod, container in _containers(case):
        context = {**pod.spec.get("securityContext", {}), **container.get("securityContext", {})}
        where = f"{pod.name}/{container['name']}"

        assert context.get("runAsNonRoot") is True, where
        assert context.get("runAsUser", 0) >= 10_000, where
        assert context.get("runAsGroup", 0) >= 10_000, where
        assert context.get("seccompProfile", {}).get("type") == "RuntimeDefault", where
        assert context.get("allowPrivilegeEscalation") is False, where
        assert context.get("readOnlyRootFilesystem") is True, where
        assert context.get("capabilities", {}).get("drop") == ["ALL"], where


def test_what_strimzi_makes_of_our_resources_is_restricted_too(case: Case) -> None:
    kafka = [item["spec"] for item in objects(case) if item["apiVersion"].startswith("kafka.")]
    pools = [spec for spec in kafka if "roles" in spec]
    clusters = [spec for spec in kafka if "entityOperator" in spec]
    templates = [pool["template"]["kafkaContainer"] for pool in pools]
    for cluster in clusters:
        operators = cluster["entityOperator"]["template"]
        templates += [operators["topicOperatorContainer"], operators["userOperatorContainer"]]
        if "kafkaExporter" in cluster:
            templates.append(cluster["kafkaExporter"]["template"]["container"])

    assert len(templates) >= 3 * len(clusters)
    for template in templates:
        context = template["securityContext"]
        assert context["runAsNonRoot"] is True
        assert context["allowPrivilegeEscalation"] is False
        assert context["capabilities"] == {"drop": ["ALL"]}
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_only_the_container_that_calls_the_api_gets_a_token(case: Case) -> None:
    for pod in pods(objects(case)):
        tokens = {
            volume["name"]
            for volume in pod.spec.get("volumes", ())
            if any("serviceAccountToken" in source for source in _sources(volume))
        }
        holders = {
            container["name"]
            for container in pod.containers
            if tokens & {mount["name"] for mount in container.get("volumeMounts", ())}
        }

        assert pod.spec.get("automountServiceAccountToken") is False, pod.name
        assert holders == {pod.component} & _MAY_CALL_THE_API, pod.name
        assert pod.spec.get("serviceAccountName", "default") != "default", pod.name


def _sources(volume: dict[str, Any]) -> list[dict[str, Any]]:
    sources: list[dict[str, Any]] = volume.get("projected", {}).get("sources", [])
    return sources


def test_every_container_says_what_it_needs_and_what_it_may_take(case: Case) -> None:
    for pod, container in _containers(case):
        resources = container["resources"]
        where = f"{pod.name}/{container['name']}"

        assert {"cpu", "memory"} <= resources["requests"].keys(), where
        assert "memory" in resources["limits"], where


def test_everything_that_is_never_done_is_probed(case: Case) -> None:
    for pod in pods(objects(case)):
        for container in pod.main if pod.long_running else []:
            assert {"livenessProbe", "readinessProbe"} <= container.keys(), pod.name


def test_every_setting_is_one_that_the_services_know(case: Case) -> None:
    known = _OF_NO_GROUP | {
        (group.model_config["env_prefix"] + name).upper()
        for group in GROUPS
        for name in group.model_fields
    }
    for pod, container in _containers(case):
        given = {variable["name"] for variable in container.get("env", [])}

        assert {name for name in given if name.startswith("MOODSTREAM_")} <= known, pod.name


def test_every_secret_file_is_named_like_the_setting_it_stands_for(case: Case) -> None:
    known = {
        (group.model_config["env_prefix"] + name).lower()
        for group in GROUPS
        for name in group.model_fields
    }
    for pod in pods(objects(case)):
        mounts = {
            mount["name"]
            for container in pod.containers
            for mount in container.get("volumeMounts", [])
            if mount["mountPath"] == "/run/moodstream/secrets"
        }
        files = {
            item["path"]
            for volume in pod.spec.get("volumes", [])
            if volume["name"] in mounts
            for source in volume["projected"]["sources"]
            for item in source["secret"]["items"]
        }

        assert files <= known, pod.name


def test_every_command_is_a_module_of_ours(case: Case) -> None:
    for pod, container in _containers(case):
        words = container.get("command", [])
        modules = [words[n + 1] for n, word in enumerate(words[:-1]) if word == "-m"]
        ours = [name for name in modules if name.split(".")[0] in {"services", "training"}]

        assert [name for name in ours if importlib.util.find_spec(name) is None] == [], pod.name


def test_every_secret_and_config_map_that_a_pod_names_is_made_by_someone() -> None:
    for profile in PROFILES:
        rendered = everything(profile)
        made = {item["metadata"]["name"] for item in rendered if item["kind"] == "ConfigMap"}
        made |= {item["metadata"]["name"] for item in rendered if item["kind"] == "KafkaUser"}
        for item in rendered:
            name = item["metadata"]["name"]
            if item["kind"] == "Kafka":
                made |= {f"{name}-cluster-ca-cert"}
            if (item["kind"], item["apiVersion"]) == ("Cluster", "postgresql.cnpg.io/v1"):
                made |= {f"{name}-app", f"{name}-ca"}

        named = {name for pod in pods(rendered) for name in _references(pod.spec)}

        assert named <= made | _GENERATED_ONCE | _OF_EVERY_NAMESPACE, profile


def test_every_service_account_that_a_pod_names_is_made_by_its_chart(case: Case) -> None:
    made = {item["metadata"]["name"] for item in objects(case) if item["kind"] == "ServiceAccount"}

    assert {pod.spec["serviceAccountName"] for pod in pods(objects(case))} <= made


def test_the_selectors_of_every_workload_have_no_version(case: Case) -> None:
    for item in objects(case):
        selector = item.get("spec", {}).get("selector", {})

        assert not re.search("version|managed-by", str(selector)), item["metadata"]["name"]


def _containers(case: Case) -> list[tuple[Pod, dict]]:
    return [(pod, container) for pod in pods(objects(case)) for container in pod.containers]


def _references(node: object) -> set[str]:
    """Names of Secrets and ConfigMaps below a node of a pod's spec."""
    if isinstance(node, list):
        return {name for child in node for name in _references(child)}
    if not isinstance(node, dict):
        return set()
    own = {
        str(child.get("name") or child.get("secretName"))
        for key, child in node.items()
        if isinstance(child, dict)
        and key in {"secret", "configMap", "secretKeyRef", "configMapKeyRef", "secretRef"}
    }
    return own | {name for child in node.values() for name in _references(child)}
