"""One version everywhere, and workflows that name what exists and trust nothing that can move."""

import importlib.util
import re
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yaml"))
PINNED = re.compile(
    r"uses: \./\.github/workflows/\w+\.yaml$|"
    r"uses: [\w.-]+/[\w./-]+@[0-9a-f]{40}  # v\d+\.\d+\.\d+$"
)
_CHANGELOG = "## 1.2.3 - 2026-01-02\n\n- New.\n"
every_workflow = pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location(
        "release_check", ROOT / ".github" / "release_check.py"
    )
    assert spec
    assert spec.loader
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


release_check = _load()


def _tree(root: Path, chart: str = "1.2.3", changelog: str = _CHANGELOG) -> Path:
    (root / "pyproject.toml").write_text('[project]\nversion = "1.2.3"\nlicense = "Apache-2.0"\n')
    (root / "charts" / "one").mkdir(parents=True)
    (root / "charts" / "one" / "Chart.yaml").write_text(f"version: 1.2.3\nappVersion: {chart}\n")
    (root / "CHANGELOG.md").write_text(changelog)
    return root


def test_the_charts_have_the_version_of_pyproject() -> None:
    assert release_check.wrong_charts(ROOT) == ""


def test_no_code_repeats_the_version() -> None:
    literal = re.compile(rf"[\"'=:\s]v?{re.escape(release_check.version_of(ROOT))}[\"'\s]")
    code = [
        path
        for folder in ("services", "training", "images", "manifests/profiles", ".github")
        for path in (ROOT / folder).rglob("*")
        if path.suffix in {".py", ".yaml", ".sh"} or path.name in {"Dockerfile", "build"}
    ]
    files = [path for path in (*code, ROOT / "Makefile") if path.is_file()]

    assert [str(path) for path in files if literal.search(path.read_text())] == []


def test_a_chart_with_another_version_is_named(tmp_path: Path) -> None:
    assert "one's appVersion is 1.2.2" in release_check.wrong_charts(_tree(tmp_path, "1.2.2"))


def test_another_version_than_the_one_asked_for_is_refused(tmp_path: Path) -> None:
    tree = _tree(tmp_path)

    assert release_check.wrong_version(tree, "1.2.3") == ""
    assert "not 1.3.0" in release_check.wrong_version(tree, "1.3.0")


@pytest.mark.parametrize("changelog", ["## Unreleased\n\n- New.\n", "## 1.2.3\n\n- New.\n"])
def test_a_changelog_without_a_dated_section_is_refused(tmp_path: Path, changelog: str) -> None:
    assert "no section" in release_check.wrong_changelog(_tree(tmp_path, changelog=changelog))


def test_the_notes_are_the_section_of_the_version_alone() -> None:
    changelog = "## 1.2.3 - 2026-01-02\n\n- New.\n\n## 1.2.2 - 2026-01-01\n\n- Old.\n"

    assert release_check.section(changelog, "1.2.3") == "- New."


def test_there_are_workflows() -> None:
    assert [path.stem for path in WORKFLOWS] == ["release", "test"]


@every_workflow
def test_every_action_is_pinned_by_commit_with_its_version(path: Path) -> None:
    uses = [line.strip() for line in path.read_text().splitlines() if "uses:" in line]

    assert uses
    assert [line for line in uses if not PINNED.search(line)] == []


@every_workflow
def test_every_job_has_a_timeout_and_its_own_permissions(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())

    assert workflow["permissions"] == {}
    assert "concurrency" in workflow
    for name, job in workflow["jobs"].items():
        assert job.get("timeout-minutes") or "uses" in job, name
        assert job.get("permissions"), name


def test_nothing_is_published_before_every_test_has_passed() -> None:
    jobs = yaml.safe_load((ROOT / ".github/workflows/release.yaml").read_text())["jobs"]

    assert jobs["test"]["uses"] == "./.github/workflows/test.yaml"
    assert [name for name in jobs if name not in {"check", "test"} and not _after(jobs, name)] == []


def _after(jobs: dict[str, Any], name: str) -> bool:
    """Whether the job waits for the tests."""
    needed = jobs[name].get("needs", [])
    needed = [needed] if isinstance(needed, str) else needed
    return "test" in needed or any(_after(jobs, each) for each in needed)


@every_workflow
def test_every_target_and_path_that_a_step_names_exists(path: Path) -> None:
    workflow = yaml.safe_load(path.read_text())
    script = "\n".join(
        step.get("run", "") for job in workflow["jobs"].values() for step in job.get("steps", ())
    )
    targets = re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    paths = re.findall(
        r"(?<![\w/$}.])(\.ci/\w+|\.github/[\w.]+|images/\w+|\./versions\.env)", script
    )

    assert set(re.findall(r"\bmake ([a-z0-9-]+)", script)) <= set(targets)
    assert [name for name in paths if not (ROOT / name).exists()] == []
