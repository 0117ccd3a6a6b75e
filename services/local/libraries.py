"""The libraries of the dashboard's page, from their WebJars: downloaded once into the user's Maven
cache, unpacked beside the page. Nothing of it is in the repository, and nothing comes from a CDN.

python -m services.local.libraries
"""

import sys
import zipfile
from pathlib import Path
from typing import Final

from jgo.config import GlobalSettings
from jgo.maven import MavenContext

from services.local.process import PartError

_ROOT: Final = Path(__file__).parents[2]
_VERSIONS: Final = _ROOT / "versions.env"
FOLDER: Final = _ROOT / "services" / "dashboard" / "static" / "lib"

_FILES: Final = {
    ("org.webjars.npm", "chart.js", "CHART_JS_VERSION"): ("dist/chart.umd.js", "LICENSE.md"),
    ("org.webjars", "swagger-ui", "SWAGGER_UI_VERSION"): ("swagger-ui-bundle.js", "swagger-ui.css"),
}


def fetch(folder: Path = FOLDER) -> None:
    """Puts the libraries' files into a folder; what is there in the same version stays. Raises
    PartError when they cannot be had.
    """
    versions = dict(
        line.split("=", 1) for line in _VERSIONS.read_text().splitlines() if line[:1].isalpha()
    )
    wanted = "\n".join(f"{name} {versions[version]}" for _, name, version in _FILES)
    stamp = folder / "versions.txt"
    if stamp.is_file() and stamp.read_text() == wanted:
        return
    folder.mkdir(parents=True, exist_ok=True)
    maven = MavenContext(remote_repos=GlobalSettings.load().repositories or None)
    for (group, name, version), files in _FILES.items():
        try:
            component = maven.project(group, name).at_version(versions[version])
            with zipfile.ZipFile(component.artifact().resolve()) as jar:
                base = f"META-INF/resources/webjars/{name}/{versions[version]}"
                for file in files:
                    (folder / Path(file).name).write_bytes(jar.read(f"{base}/{file}"))
        except Exception as exc:  # The library raises what its parser, its client or the disk did.
            raise PartError(
                f"cannot download {name} {versions[version]} ({exc}); check the network "
                "(HTTPS_PROXY is honoured; a Maven mirror goes into ~/.config/jgo.conf) and try "
                "again"
            ) from exc
    stamp.write_text(wanted)


if __name__ == "__main__":
    try:
        fetch()
    except PartError as exc:
        sys.exit(str(exc))
