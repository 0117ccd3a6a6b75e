"""Says whether the tree can be released: one line for each condition, with what to do.

Called by `make release-check` and by the release workflow. It changes nothing but build/.
"""

import re
import subprocess
import sys
import tomllib
from functools import partial
from pathlib import Path

_PLACEHOLDER = r"@[A-Z][A-Z_]{3,}@"
_GENERATED = [f"tests/unit/test_{name}.py" for name in ("docs", "charts_docs", "architecture")]


def version_of(root: Path) -> str:
    """The version, from the one place that is written by hand to set it."""
    version: str = tomllib.loads((root / "pyproject.toml").read_text())["project"]["version"]
    return version


def wrong_version(root: Path, wanted: str) -> str:
    """What is wrong with the version, or nothing; wanted is empty where any will do."""
    version = version_of(root)
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        return f"{version} is not MAJOR.MINOR.PATCH: mend project.version in pyproject.toml"
    if wanted not in ("", version):
        return f"pyproject.toml has {version}, not {wanted}: set project.version"
    return ""


def wrong_charts(root: Path) -> str:
    """Charts that have another version, or nothing."""
    import yaml  # Here, so that --notes needs nothing installed.

    version = version_of(root)
    wrong = [
        f"{path.parent.name}'s {key} is {chart.get(key)}"
        for path in sorted(root.glob("charts/*/Chart.yaml"))
        for chart in [yaml.safe_load(path.read_text())]
        for key in ("version", "appVersion")
        if chart.get(key) != version
    ]
    return f"{', '.join(wrong)}: set {version}" if wrong else ""


def section(changelog: str, version: str) -> str | None:
    """What the changelog says of a version under `## VERSION - YYYY-MM-DD`; None without it."""
    heading = rf"^## {re.escape(version)} - \d{{4}}-\d{{2}}-\d{{2}}$"
    found = re.search(heading + r"\n(.*?)(?=^## |\Z)", changelog, re.MULTILINE | re.DOTALL)
    return found[1].strip() if found else None


def wrong_changelog(root: Path) -> str:
    """What the changelog lacks for this version, or nothing."""
    version = version_of(root)
    if not section((root / "CHANGELOG.md").read_text(), version):
        return f"no section of it: put `## {version} - YYYY-MM-DD` under `## Unreleased`"
    return ""


def unclean(root: Path) -> str:
    """Changes that no commit has, or nothing."""
    changed = _git(root, "status", "--porcelain").splitlines()
    return f"{len(changed)} changed files: commit or remove them" if changed else ""


def tagged(root: Path) -> str:
    """Another commit that has the version's tag, or nothing; this commit may have it."""
    tag = f"v{version_of(root)}"
    commit = _git(root, "rev-parse", "--verify", "--quiet", f"refs/tags/{tag}^{{commit}}")
    if commit and commit != _git(root, "rev-parse", "HEAD"):
        return f"{tag} is at {commit[:12]}: raise project.version in pyproject.toml"
    return ""


def placeholders(root: Path) -> str:
    """Files that still have something to fill in, or nothing."""
    found = _git(root, "grep", "-lIE", _PLACEHOLDER, "--", ":!services/dashboard/static/lib")
    return f"fill in what is between @ in {', '.join(found.split())}" if found else ""


def wrong_licence(root: Path) -> str:
    """Whether LICENSE is what pyproject.toml says."""
    declared = tomllib.loads((root / "pyproject.toml").read_text())["project"]["license"]
    path = root / "LICENSE"
    if declared != "Apache-2.0" or not path.exists() or "Apache License" not in path.read_text():
        return "LICENSE and project.license in pyproject.toml must both be Apache-2.0"
    return ""


def outdated_docs(root: Path) -> str:
    """Whether the generated pages are those of today's sources."""
    command = [sys.executable, "-m", "pytest", "-q", *_GENERATED]
    done = subprocess.run(command, cwd=root, capture_output=True, check=False)
    return "a page is not what its source says: run make docs" if done.returncode else ""


def no_bill(root: Path) -> str:
    """Whether each image's bill of materials can be made."""
    done = subprocess.run(["make", "sbom"], cwd=root, capture_output=True, check=False)  # noqa: S607
    return "make sbom fails: run it and read what it says" if done.returncode else ""


def _git(root: Path, *arguments: str) -> str:
    command = ["git", *arguments]
    return subprocess.run(
        command, cwd=root, capture_output=True, text=True, check=False
    ).stdout.strip()


def main(arguments: list[str]) -> int:
    """Checks the tree; `--notes` writes the version's section of the changelog instead."""
    root = Path(__file__).resolve().parent.parent
    if arguments == ["--notes"]:
        notes = section((root / "CHANGELOG.md").read_text(), version_of(root))
        sys.stdout.write(f"{notes}\n" if notes else "")
        return 0 if notes else 1
    wanted = arguments[0].removeprefix("v") if arguments else ""
    wrong = False
    for name, look in (
        ("version", partial(wrong_version, wanted=wanted)),
        ("charts", wrong_charts),
        ("changelog", wrong_changelog),
        ("tree", unclean),
        ("tag", tagged),
        ("placeholders", placeholders),
        ("licence", wrong_licence),
        ("docs", outdated_docs),
        ("sbom", no_bill),
    ):
        said = look(root)
        sys.stdout.write(f"{name:13} {said or 'ok'}\n")
        sys.stdout.flush()
        wrong = wrong or bool(said)
    return int(wrong)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
