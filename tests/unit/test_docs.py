"""The documents say what the code says, lead somewhere, and their commands are ones."""

import importlib
import json
import re
import sys
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml
from pydantic_settings import BaseSettings

from docs import interfaces
from docs.charts import find
from docs.reference import GROUPS, PAGES
from services.cluster.options import HOST_PORTS
from services.core import lifecycle
from services.core.settings import group
from services.notifier.deliver import _KINDS
from tests import pages
from tests.hostile.asking import documented, hidden
from tests.pages import Call
from tests.tools import ROOT

each_page = pytest.mark.parametrize(
    "path", pages.PAGES, ids=lambda path: str(path.relative_to(ROOT))
)


# The reference.


@pytest.mark.parametrize("path", PAGES, ids=lambda path: path.name)
def test_a_page_of_the_reference_is_what_the_code_says(path: Path) -> None:
    assert path.read_text() == PAGES[path](), "run: make docs"


def test_every_settings_group_is_on_the_page() -> None:
    ours = {
        subclass
        for subclass in BaseSettings.__subclasses__()
        if subclass.__module__.startswith(("services.", "training."))
    }

    assert ours == set(GROUPS)
    assert group("X_")["frozen"]


@pytest.mark.parametrize("settings_class", GROUPS)
def test_every_setting_says_what_it_does(settings_class: type[BaseSettings]) -> None:
    undocumented = [
        name for name, field in settings_class.model_fields.items() if not field.description
    ]

    assert undocumented == []


def test_every_metric_that_the_code_names_is_on_the_page() -> None:
    sources = [*ROOT.glob("services/**/*.py"), *ROOT.glob("training/*.py")]
    named = re.compile(
        r'(?:Counter|Gauge|Histogram|Info|Summary|Enum|MetricFamily)\(\s*"(moodstream_\w+)"'
    )
    names = {name for path in sources for name in named.findall(path.read_text())}
    page = (ROOT / "docs/metrics.md").read_text()

    assert len(names) > 30
    assert {name for name in names if not re.search(rf"`{name}(_total|_info)?`", page)} == set()


def test_every_alert_and_every_runbook_is_on_the_page() -> None:
    page = (ROOT / "docs/metrics.md").read_text()
    runbooks = {path.stem for path in (ROOT / "docs/runbooks").glob("M*.md")}

    assert {name for name in runbooks if f"runbooks/{name}.md" not in page} == set()
    assert {path.stem for path in interfaces.alerts()} == runbooks


def test_every_address_is_described_and_none_that_is_gone() -> None:
    assert set(interfaces.UNDOCUMENTED) == hidden()
    assert set(interfaces.PREDICTOR) == set(interfaces.predictor())


def test_every_kind_of_event_is_described_and_none_that_is_gone() -> None:
    told = re.findall(
        r'"(Model\w+|EditedByHand)"', (ROOT / "services/promoter/reconcile.py").read_text()
    )
    reasons = [
        reason
        for path in ("services/core/events.py", "services/consumer/score.py")
        for reason in re.findall(r'(?:BadPostError\(|"score", )"(\w+)"', (ROOT / path).read_text())
    ]

    assert set(interfaces.TYPES) == {*_KINDS, "alert.several"}
    assert set(interfaces.KUBERNETES) == set(told)
    assert set(interfaces.REASONS) == set(reasons)


@pytest.mark.parametrize("name", ["services.etl", "services.maintenance"])
def test_every_command_of_a_job_is_on_the_page(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [name, "no-such-command"])
    with pytest.raises(SystemExit):
        importlib.import_module(interfaces.JOBS[name]).main()
    choices = re.findall(r"[\w-]+", capsys.readouterr().err.partition("choose from")[2])

    assert choices
    page = (ROOT / "docs/cli.md").read_text()
    assert [each for each in choices if f"`python -m {name} {each}" not in page] == []


@each_page
def test_every_variable_that_a_page_names_is_a_setting(path: Path) -> None:
    known = {
        f"{settings.model_config['env_prefix']}{name}".upper()
        for settings in GROUPS
        for name in settings.model_fields
    }
    others = {"MOODSTREAM_SECRETS_DIR", "MOODSTREAM_TEST_KUBECONFIG"}

    named = set(re.findall(r"\bMOODSTREAM_[A-Z0-9_]*[A-Z0-9]\b(?![_*])", path.read_text()))

    assert named - known - others == set()


# Links.


@each_page
def test_every_link_leads_somewhere(path: Path) -> None:
    dead = []
    for link in pages.links(path):
        file, _, anchor = link.partition("#")
        target = (path.parent / file).resolve() if file else path
        if not target.exists() or (anchor and anchor not in pages.anchors(target)):
            dead.append(link)

    assert dead == []


def test_every_page_is_led_to_from_the_index() -> None:
    seen, todo = set(), [ROOT / "docs/README.md"]
    while todo:
        path = todo.pop()
        if path not in seen:
            seen.add(path)
            linked = (
                (path.parent / link.partition("#")[0]).resolve() for link in pages.links(path)
            )
            todo += [each for each in linked if each.suffix == ".md" and each.exists()]

    missing = {path for path in (ROOT / "docs").rglob("*.md")} - seen

    assert {str(path.relative_to(ROOT)) for path in missing} == set()


@each_page
def test_every_value_that_a_page_sets_is_one_of_the_chart(path: Path) -> None:
    blocks = re.findall(
        r"`my-values/(\w+)\.yaml`[^\n]*\n\n```yaml\n(.*?)^```",
        path.read_text(),
        flags=re.MULTILINE | re.DOTALL,
    )

    unknown = []
    for chart, text in blocks:
        schema = json.loads((ROOT / "charts" / chart / "values.schema.json").read_text())
        unknown += [each for each in _paths(yaml.safe_load(text)) if not find(schema, each)]

    assert unknown == []


def _paths(values: object) -> list[tuple[str, ...]]:
    if not isinstance(values, dict):
        return [()]
    return [(key, *rest) for key, below in values.items() for rest in _paths(below)]


# Commands.


_NO_PROGRAMS_OF_OURS = {"cat", "cd", "echo", "git", "jq", "printf", "sudo", "tail", "tar"}
"""What a page may call as well."""
_PLACEHOLDER = re.compile(r"^moodstream .*\.\.\.|^python -m services\.NAME$")
"""A mention of commands in general."""


@each_page
def test_every_command_of_a_page_is_one(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(lifecycle, "job", lambda name, body: None)
    monkeypatch.setattr(sys, "argv", sys.argv)  # and back at the end

    wrong = {str(call): found for call in pages.calls(path) if (found := _problem(call))}

    assert wrong == {}


@pytest.mark.parametrize(
    "command",
    [
        "make no-such-target",
        "make demo NO_SUCH=1",
        "moodstream no-such-command",
        "moodstream predict --no-such-option good",
        "moodstream promote",
        "python -m services.no_such",
        "python -m services.etl no-such",
        "pytest tests/no_such.py",
        "pip install -r requirements/no-such.txt",
        "helm test no-such --namespace moodstream",
        "helm upgrade moodstream charts/no-such",
        "kubectl --namespace no-such get pods",
        "kubectl --namespace moodstream no-such pods",
        "kubectl --namespace moodstream describe deployment no-such",
        "kubectl create job again --from=cronjob/no-such",
        "curl http://127.0.0.1:18000/no-such",
        "no-such-program",
    ],
)
def test_a_command_that_is_none_is_found(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", sys.argv)
    page = tmp_path / "page.md"
    page.write_text(f"# Page\n\n```sh\ncd here && FEW=1 {command} > out.txt\n```\n")

    assert [call for call in pages.calls(page) if _problem(call)]


def _problem(call: Call) -> str | None:
    if call.program in _NO_PROGRAMS_OF_OURS or _PLACEHOLDER.search(str(call)):
        return None
    prove = _PROOFS.get(call.program)
    return prove(call) if prove else "no such program is known here"


def _make(call: Call) -> str | None:
    targets, variables = _makefile()
    for word in call.words[1:]:
        name, equals, _ = word.partition("=")
        if name not in (variables if equals else targets):
            return f"the Makefile has no {name}"
    return None


@cache
def _makefile() -> tuple[set[str], set[str]]:
    """Its targets, and the variables that it reads."""
    text = (ROOT / "Makefile").read_text()
    targets = re.findall(r"^\.PHONY: (\S+)", text, flags=re.MULTILINE)
    return set(targets), set(re.findall(r"\$\((?:or \$\()?([A-Z_]+)\)", text))


def _moodstream(call: Call) -> str | None:
    words = ("moodstream", *call.words[1:])
    if words[-1] == "--help":
        asked = any(_begins(each.split(), words[:-1]) for each, _ in interfaces.leaves())
        return None if asked else "no such command"
    found = [each for each in interfaces.leaves() if _begins(words, each[0].split())]
    if not found:
        return "no such command"
    name, command = found[0]
    arguments = words[len(name.split()) :]
    for word in arguments:
        if Path(word).suffix or word.isupper():
            Path(word).parent.mkdir(parents=True, exist_ok=True)
            Path(word).touch()
    try:
        command.make_context(name, list(arguments))
    except Exception as exc:  # typer's own errors are in no public module
        if call.whole or type(exc).__name__ not in {"MissingParameter", "BadOptionUsage"}:
            return str(exc) or type(exc).__name__
    return None


def _begins(words: Sequence[str], first: Sequence[str]) -> bool:
    return list(words[: len(first)]) == list(first)


def _python(call: Call) -> str | None:
    if call.words[1] != "-m":
        return "only modules are run here"
    if not call.words[2:]:
        return "which?" if call.whole else None
    module = call.words[2]
    if find_spec(module) is None:
        return f"there is no module {module}"
    source = interfaces.JOBS.get(module)
    if source and call.words[3:]:
        sys.argv = list(call.words[2:])
        try:
            importlib.import_module(source).main()
        except SystemExit:
            return "no such command"
    return None


def _pytest(call: Call) -> str | None:
    files = [word for word in call.words[1:] if word.startswith("tests")]
    missing = [file for file in files if not (ROOT / file).exists()]
    return f"there is no {missing[0]}" if missing else None


def _pip(call: Call) -> str | None:
    return None if (ROOT / call.words[-1]).is_file() else f"there is no {call.words[-1]}"


def _helm(call: Call) -> str | None:
    if call.words[1] not in {"get", "history", "rollback", "template", "test", "upgrade"}:
        return f"helm {call.words[1]} is not expected"
    for word in call.words[2:]:
        if word.startswith(("charts/", "manifests/")) and not (ROOT / word).exists():
            return f"there is no {word}"
    releases = {chart.name for chart in (ROOT / "charts").iterdir()}
    named = {
        word
        for before, word in pairwise(call.words)
        if before not in {"-n", "--namespace"} and word in releases
    }
    return None if named or not call.whole else "no release of ours is named"


_KUBECTL = {
    *("annotate", "apply", "config", "cp", "create", "delete", "describe", "exec", "get", "logs"),
    *("patch", "port-forward", "rollout", "scale", "top", "wait"),
}
_NAMESPACES = {"moodstream", "kserve", "cnpg-system", "keda", "cert-manager", "strimzi-system"}


def _kubectl(call: Call) -> str | None:
    named = [
        words.partition("=")[2] or call.words[place + 1]
        for place, words in enumerate(call.words)
        if re.match(r"(-n|--namespace)($|=)", words)
    ]
    if unknown := set(named) - _NAMESPACES:
        return f"the namespace {unknown} is not one of ours"
    if not _KUBECTL & set(call.words):
        return "kubectl does something unexpected"
    known = _objects()
    for kind, name in _named(call, {kind for kind, _ in known}):
        if (kind, name) not in known:
            return f"no chart makes {kind}/{name}"
    return None


def _named(call: Call, kinds: set[str]) -> set[tuple[str, str]]:
    """Objects of our charts' kinds: as `kind/name`, and as `kind name ...`. NAME is any."""
    found = set()
    kind = ""
    for word in call.words:
        text = word.removeprefix("--from=")
        before, slash, name = text.partition("/")
        if slash and _kind(before) in kinds:
            found.add((_kind(before), name))
        elif word.startswith("-"):
            kind = ""
        elif kind and re.fullmatch(r"[a-zA-Z0-9-]+", word):
            found.add((kind, word))
        elif _kind(word) in kinds:
            kind = _kind(word)
    return {(kind, name) for kind, name in found if not name.isupper()}


def _kind(word: str) -> str:
    return word.partition(".")[0].lower().removesuffix("s")


@cache
def _objects() -> set[tuple[str, str]]:
    """Kind and name of what our charts make, and of what is made of that."""
    found = {("service", "warehouse-rw"), ("inferenceservice", "sentiment")}
    for chart in (ROOT / "charts").iterdir():
        values = yaml.safe_load((chart / "values.yaml").read_text())
        for path in chart.glob("templates/**/*.yaml"):
            head = re.compile(r"^kind: (\w+)\nmetadata:\n  name: (.+)$", re.MULTILINE)
            for kind, name in head.findall(path.read_text()):
                found.add((_kind(kind), _rendered(name, chart.name, values)))
    # Of other charts, or made by hand.
    return {(kind, name) for kind, name in found if kind not in {"pod", "secret", "job"}}


def _rendered(name: str, chart: str, values: object) -> str:
    if match := re.search(r'fullname" \(list \S+ "([\w-]+)"', name):
        return f"{chart}-{match[1]}"
    if match := re.fullmatch(r"{{ \.Values\.([\w.]+) }}", name):
        for key in match[1].split("."):
            values = values[key]  # type: ignore[index]
        return str(values)
    return chart if "fullname" in name else name


@cache
def _dashboard() -> set[str]:
    return set(documented()["paths"]) | hidden()


def _curl(call: Call) -> str | None:
    addresses = [word for word in call.words if word.startswith("http")]
    if len(addresses) != 1:
        return "one address is expected"
    url = urlsplit(addresses[0])
    if url.port == HOST_PORTS["dashboard"]:
        served = _dashboard()
    elif url.port == HOST_PORTS["inference"]:
        served = {each.split(" ")[1] for each in interfaces.PREDICTOR}
    else:
        return f"nothing of ours is on port {url.port}"
    patterns = (re.sub(r"{\w+}", r"[^/]+", path) for path in served)
    return None if any(re.fullmatch(each, url.path) for each in patterns) else "no such address"


_PROOFS: dict[str, Callable[[Call], str | None]] = {
    "make": _make,
    "moodstream": _moodstream,
    "python": _python,
    "pytest": _pytest,
    "pip": _pip,
    "uv": _pip,
    "helm": _helm,
    "kubectl": _kubectl,
    "curl": _curl,
}
