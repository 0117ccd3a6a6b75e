"""What is refused before anything is changed, and the one line that says why."""

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from rich.console import Console

from services.cluster import preflight, up
from services.cluster.operators import needed
from services.cluster.options import OperatorsFrom, Options, Profile, Target
from services.cluster.preflight import Check, PreflightError
from services.cluster.screen import Screen
from tests.cluster_api import Api, calls, crd, kubeconfig, node, program, serving

_REQUESTS = "resources: {requests: {cpu: 500m, memory: 1Gi}}"
_CHART = (
    "kind: Deployment\nmetadata: {name: a}\n"
    f"spec: {{replicas: 2, template: {{spec: {{containers: [{{{_REQUESTS}}}]}}}}}}"
)
_OPTIONS = Options(Target.CURRENT, OperatorsFrom.PRESENT, loader="none")


@pytest.fixture
def api() -> Iterator[Api]:
    """A cluster with everything that the platform needs."""
    found = Api()
    for operator in needed(Profile.KIND):
        for served in operator.serves:
            name, version = served.split("@")
            found.add(f"{_crds()}/{name}", crd(name, version))
    found.add("/api/v1/nodes/node-1", node("8", "16Gi"))
    found.add(
        "/apis/storage.k8s.io/v1/storageclasses/standard",
        {
            "metadata": {
                "name": "standard",
                "annotations": {"storageclass.kubernetes.io/is-default-class": "true"},
            }
        },
    )
    with serving(found):
        yield found


@pytest.fixture
def tools(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A path on which only these programs are."""
    folder = tmp_path / "bin"
    program(folder, "kubectl", """echo '{"clientVersion": {"gitVersion": "v1.35.0"}}'""")
    program(
        folder,
        "helm",
        f'case "$1" in version) echo v4.1.0;; template) echo "{_CHART}";; *) exit 1;; esac',
    )
    monkeypatch.setenv("PATH", f"{folder}:/bin:/usr/bin")
    # The machine's own tools must not stand in for those that a test leaves out.
    monkeypatch.setattr(
        "services.cluster.command.shutil.which",
        lambda name: str(folder / name) if (folder / name).exists() else None,
    )
    return folder


@pytest.fixture
def context(api: Api, tmp_path: Path, tools: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """kubectl knows the cluster as `here`, and another that does not answer."""
    path = kubeconfig(tmp_path / "config", here=api.url, gone="http://127.0.0.1:9")
    # The client has read the variable when it was imported.
    monkeypatch.setattr("kubernetes.config.kube_config.KUBE_CONFIG_DEFAULT_LOCATION", str(path))
    return path


def _crds() -> str:
    return "/apis/apiextensions.k8s.io/v1/customresourcedefinitions"


def _wrong(options: Options) -> list[Check]:
    return [check for check in preflight.run(options) if not check.well]


@pytest.mark.usefixtures("context")
def test_a_cluster_with_everything_passes_and_its_context_is_named(api: Api) -> None:
    checks = list(preflight.run(_OPTIONS))

    assert [str(check) for check in checks if not check.well] == []
    named = next(check for check in checks if check.name == "context")
    assert "here" in named.detail
    assert api.url in named.detail
    assert "v1.35.1" in named.detail


@pytest.mark.usefixtures("context")
def test_a_context_that_kubectl_does_not_know_is_named_with_those_it_knows() -> None:
    (wrong,) = _wrong(Options(Target.CURRENT, OperatorsFrom.PRESENT, "none", context="prod"))

    assert "no context prod" in wrong.detail
    assert "gone, here" in wrong.detail


@pytest.mark.usefixtures("context")
def test_a_kind_cluster_is_not_made_for_the_context_of_another(tools: Path) -> None:
    program(tools, "kind", "echo 0.31.0")
    program(tools, "docker", """echo '{"ServerVersion": "29.0.0"}'""")

    (wrong,) = _wrong(Options(Target.KIND, loader="none", context="here"))

    assert wrong.detail == "here is not the kind cluster's, which is kind-moodstream"
    assert "CLUSTER=current" in (wrong.fix or "")


@pytest.mark.usefixtures("context")
def test_a_cluster_that_does_not_answer_is_named_with_its_address() -> None:
    (wrong,) = _wrong(Options(Target.CURRENT, OperatorsFrom.PRESENT, "none", context="gone"))

    assert "http://127.0.0.1:9" in wrong.detail
    assert "does not answer" in wrong.detail


@pytest.mark.usefixtures("context")
def test_a_missing_crd_is_named_with_its_operator(api: Api) -> None:
    del api.objects[f"{_crds()}/scaledobjects.keda.sh"]

    (wrong,) = _wrong(_OPTIONS)

    assert wrong.name == "KEDA"
    assert "scaledobjects.keda.sh@v1alpha1" in wrong.detail
    assert "OPERATORS=install" in (wrong.fix or "")


@pytest.mark.usefixtures("context")
def test_a_crd_that_no_longer_serves_our_version_counts_as_missing(api: Api) -> None:
    name = "kafkatopics.kafka.strimzi.io"
    api.add(f"{_crds()}/{name}", crd(name, "v1beta2"))

    (wrong,) = _wrong(_OPTIONS)

    assert f"{name}@v1" in wrong.detail


@pytest.mark.usefixtures("context")
def test_a_webhook_that_does_not_answer_is_named(api: Api) -> None:
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices"
    api.refused[path] = "failed calling webhook: connection refused"

    (wrong,) = _wrong(_OPTIONS)

    assert wrong.name == "KServe"
    assert "connection refused" in wrong.detail


@pytest.mark.usefixtures("context")
def test_a_right_that_is_missing_is_named(api: Api) -> None:
    api.forbidden.add("namespaces")

    (wrong,) = _wrong(_OPTIONS)

    assert wrong.detail == "you may not patch namespaces"


@pytest.mark.usefixtures("context")
def test_operators_of_somebody_else_are_not_installed_over() -> None:
    wrong = _wrong(Options(Target.CURRENT, OperatorsFrom.INSTALL, "none"))

    assert {check.name for check in wrong} == {operator.name for operator in needed(Profile.KIND)}
    assert {check.fix for check in wrong} == {"OPERATORS=present"}


@pytest.mark.usefixtures("context")
def test_too_little_memory_is_told_in_numbers(api: Api) -> None:
    api.add("/api/v1/nodes/node-1", node("8", "4Gi"))

    (wrong,) = _wrong(_OPTIONS)

    assert wrong.name == "room"
    assert "4.0 GiB to give; the platform asks for 3.0 and 6.0" in wrong.detail


@pytest.mark.usefixtures("context")
def test_what_runs_beside_the_platform_takes_room_and_the_platform_itself_does_not(
    api: Api,
) -> None:
    container = {"resources": {"requests": {"memory": "12Gi"}}}
    for namespace in ("moodstream", "others"):
        api.add(
            "/api/v1/pods/" + namespace,
            {
                "metadata": {"namespace": namespace},
                "spec": {"containers": [container]},
                "status": {"phase": "Running"},
            },
        )

    (wrong,) = _wrong(_OPTIONS)

    assert "4.0 GiB to give" in wrong.detail


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize(
    ("file", "text", "said"),
    [
        (None, "", "is not a folder"),
        ("notes.txt", "", "holds no values"),
        ("mlfow.yaml", "a: 1", "mlfow.yaml"),
        ("mlflow.yaml", "a: [", "is not YAML"),
        ("mlflow.yaml", "- a", "must be a mapping"),
    ],
)
def test_a_wrong_folder_of_values_is_told_in_one_line(
    tmp_path: Path, file: str | None, text: str, said: str
) -> None:
    folder = tmp_path / "values"
    if file is not None:
        folder.mkdir()
        (folder / file).write_text(text)

    (wrong,) = _wrong(Options(Target.CURRENT, OperatorsFrom.PRESENT, "none", values=folder))

    assert said in wrong.detail
    assert "\n" not in str(wrong)


@pytest.mark.usefixtures("context")
def test_a_value_that_a_chart_refuses_is_told_before_the_cluster_is_touched(
    tools: Path, api: Api
) -> None:
    program(
        tools,
        "helm",
        'case "$1" in version) echo v4.1.0;; *) echo "partitions: got string" >&2; exit 1;; esac',
    )

    (wrong,) = _wrong(_OPTIONS)

    assert "partitions: got string" in wrong.detail
    assert api.changes == []


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("listening", [False, True])
def test_an_s3_that_does_not_answer_is_named_with_its_address(tools: Path, listening: bool) -> None:
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        if listening:
            silent.listen()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        config_map = f"kind: ConfigMap\nmetadata: {{name: object-store}}\ndata: {{endpoint: {url}}}"
        program(
            tools, "helm", f'case "$1" in version) echo v3.18.0;; *) echo "{config_map}";; esac'
        )

        keys, address = _wrong(_OPTIONS)

    assert "no Secret object-store" in keys.detail
    assert f"{url} does not answer" in address.detail


@pytest.mark.usefixtures("context")
@pytest.mark.parametrize("version", ["v2.17.0", "v3.12.9"])
def test_an_old_helm_is_told_with_the_version_that_is_needed(tools: Path, version: str) -> None:
    program(tools, "helm", f"echo {version}")

    (wrong,) = _wrong(_OPTIONS)

    assert wrong.name == "helm"
    assert "3.13 or later" in (wrong.fix or "")


@pytest.mark.usefixtures("context")
def test_a_missing_tool_ends_the_preflight_with_where_to_get_it(tools: Path) -> None:
    (tools / "helm").unlink()

    (wrong,) = _wrong(_OPTIONS)

    assert str(wrong).startswith("helm: not installed. Fix: install")


@pytest.mark.usefixtures("context")
def test_a_loader_that_is_no_program_is_named() -> None:
    docker = Options(Target.CURRENT, OperatorsFrom.PRESENT, loader="my-loader --all")

    assert "there is no program my-loader" in {check.detail for check in _wrong(docker)}


def test_a_small_machine_is_told_what_kind_needs(tmp_path: Path) -> None:
    (tmp_path / "max_user_instances").write_text("128\n")
    (tmp_path / "max_user_watches").write_text("1048576\n")

    checks = preflight.machine({"NCPU": 2, "MemTotal": 4 * 2**30}, tmp_path)

    wrong = {check.name: check for check in checks if not check.well}
    assert {"CPU", "memory", "inotify max_user_instances"} <= set(wrong)
    assert "inotify max_user_watches" not in wrong
    assert wrong["memory"].detail == "4.0 GiB for Docker, 7.5 needed"
    assert wrong["inotify max_user_instances"].fix == (
        "sudo sysctl fs.inotify.max_user_instances=512"
    )


@pytest.mark.usefixtures("context")
def test_what_fails_the_preflight_changes_nothing(api: Api, tools: Path) -> None:
    api.add("/api/v1/nodes/node-1", node("1", "1Gi"))

    with pytest.raises(PreflightError, match="nothing was changed") as raised:
        up.run(_OPTIONS, Screen(Console(quiet=True), up.STEPS))

    assert "room" in str(raised.value)
    assert api.changes == []
    assert {call.split()[0] for call in calls(tools, "helm")} == {"version", "template"}


def test_the_profiles_are_folders_of_the_repository() -> None:
    root = Path(__file__).parents[2] / "manifests" / "profiles"

    assert {path.name for path in root.iterdir() if path.is_dir()} == set(Profile)
