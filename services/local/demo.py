"""The demo: starts every part in order, shows the pipeline at work, drains it, counts, and stops
everything. Called by the command line.
"""

import logging
import os
import shutil
import signal
import time
from contextlib import ExitStack
from dataclasses import dataclass, replace
from datetime import datetime
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any, Final

from services.core.contract import CHAMPION, MODEL_NAME
from services.core.errors import MoodstreamError, TemporaryError
from services.core.kafka import ensure_topics
from services.core.settings import ChallengerSettings, InferenceSettings
from services.core.warehouse import upgrade
from services.local import model, workloads
from services.local.figures import CONSUMER_GROUP, Meter, Probe, Reading, Result
from services.local.guard import PATIENCE_SECONDS, guarded
from services.local.kafka import Kafka
from services.local.mlflow import MLflow, alias_version
from services.local.net import ADDRESS, problem, responds
from services.local.postgres import Postgres
from services.local.process import Command, PartError, Process, stop_leftovers
from services.local.run import Run, locked, publish
from services.local.screen import UP, PartState, Screen, State
from services.local.settings import LocalSettings, check_ports
from services.local.workloads import Addresses, Stream

if TYPE_CHECKING:
    from services.local.promotion import Promotion

log = logging.getLogger(__name__)

STEPS: Final = 8
PARTITIONS: Final = 6
"""Of the posts topic: the most consumers that can share it."""
_FREE_BYTES: Final = 2 * 1024**3
_READY_SECONDS: Final = 300.0
"""Of a part that runs: one that dies is known at once."""
_REFRESH_SECONDS: Final = 1.0
_DRAIN_POLL_SECONDS: Final = 0.2
_STALLED_SECONDS: Final = 30.0
"""A drain in which the lag has not fallen for so long is given up."""
_NEWEST_SHOWN: Final = 8


class NoSpaceError(MoodstreamError):
    """The disk is too full to start."""


@dataclass(frozen=True)
class Options:
    """One run of the demo."""

    stream: Stream
    duration: float
    """Seconds; 0: until Ctrl-C or until the source ends."""
    consumers: int


def run(options: Options, settings: LocalSettings, screen: Screen) -> Result:
    """The whole demo. Raises MoodstreamError with one clear message when it cannot go on; whatever
    was started is stopped when this returns or raises.
    """
    _interrupt_on_sigterm()
    with locked(settings.home), guarded(settings.home):
        logging.basicConfig(filename=settings.home / "demo.log", level=logging.INFO, force=True)
        stack = ExitStack()
        demo = _Demo(options, settings, screen, stack)
        try:
            return demo.run()
        except MoodstreamError:
            demo.ask_all_to_stop()
            raise
        finally:
            # A second Ctrl-C must not leave half of the parts behind; each stop has its deadline.
            for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
                signal.signal(number, signal.SIG_IGN)
            screen.say("stopping")
            stack.close()


def check_space(folder: Path) -> None:
    """Raises NoSpaceError when the disk has less room than a run can need."""
    free = shutil.disk_usage(folder).free
    if free < _FREE_BYTES:
        raise NoSpaceError(
            f"{folder.absolute()} has {free / 1024**3:.1f} GB of disk left, and the platform needs "
            f"{_FREE_BYTES / 1024**3:.0f}: free some, or set MOODSTREAM_LOCAL_HOME to another disk"
        )


class _Demo:
    """One run: the parts that are up, and what was measured so far."""

    def __init__(
        self, options: Options, settings: LocalSettings, screen: Screen, stack: ExitStack
    ) -> None:
        self._options = options
        self._settings = settings
        self._screen = screen
        self._stack = stack
        self._processes: list[Process] = []
        self._promotion: Promotion | None = None
        self._streaming = False
        self._meter: Meter

    def run(self) -> Result:
        settings, screen = self._settings, self._screen
        with screen.step("settings, ports and disk"):
            workloads.check_stream(self._options.stream)
            stop_leftovers(settings.home, PATIENCE_SECONDS)
            check_ports(settings, self._options.consumers)
            check_space(settings.home)
        postgres = Postgres(settings.home, settings.postgres_port)
        mlflow = MLflow(settings.home, settings.mlflow_port, postgres.settings_of("mlflow"))
        kafka = Kafka(settings.home, settings.kafka_port, settings.kafka_controller_port)
        with screen.step("PostgreSQL: the warehouse"):
            self._watch(postgres.launch())
            postgres.wait()
            upgrade(postgres.settings)
            # The slowest to come up, so it does so beside Kafka.
            self._watch(mlflow.launch())
        with screen.step("Kafka: the stream (the first start downloads it)"):
            self._watch(kafka.launch())
            kafka.wait()
            ensure_topics(kafka.settings, PARTITIONS)
        with screen.step("MLflow: experiments and the model registry"):
            mlflow.wait()
        with screen.step("model: the champion (the first start trains it)"):
            version = self._champion(mlflow.url)
        addresses = Addresses(
            kafka.settings,
            postgres.settings,
            InferenceSettings(url=_url(settings.predictor_port)),
            ChallengerSettings(url=_url(settings.challenger_port)),
        )
        with screen.step(f"promoter and predictor: {MODEL_NAME} version {version}"):
            self._promote(mlflow, addresses)
        with screen.step("consumer, notifier and dashboard"):
            self._start_readers(addresses)
        probe = Probe(kafka.settings, postgres.settings, CONSUMER_GROUP)
        self._stack.callback(probe.close)
        ports = range(settings.consumer_port, settings.consumer_port + self._options.consumers)
        self._meter = Meter(probe, ports)
        with screen.step(f"producer: posts from {self._options.stream.source}"):
            producer = self._start(workloads.producer(settings, addresses, self._options.stream))
        run = _describe(settings, addresses, mlflow.url, self._meter.began_at)
        publish(settings.home, run)
        for name, url in run.urls.items():
            screen.say(f"{name}: {url}")
        log_text = self._stream(producer, run)
        served = self._served()[CHAMPION]
        return self._meter.result(log_text, {"name": MODEL_NAME, "version": served})

    def ask_all_to_stop(self) -> None:
        """For when a part is gone: the others would drain in vain, one after the other."""
        for process in self._processes:
            process.ask_to_stop()
        if self._promotion is not None:
            self._promotion.ask_to_stop()

    def _champion(self, mlflow_url: str) -> str:
        """The version that is to be served; trains one where there is none."""
        version = alias_version(mlflow_url, CHAMPION)
        if version is None:
            training = Process(model.training(mlflow_url), self._settings.home)
            self._stack.callback(training.stop)
            training.wait_finished(model.TRAINING_SECONDS)
            version = alias_version(mlflow_url, CHAMPION)
        if version is None:
            raise PartError(
                f"training has registered no champion; give a version the alias at {mlflow_url}"
            )
        return version

    def _promote(self, mlflow: MLflow, addresses: Addresses) -> None:
        """Returns when the promoter has the champion served; it goes on from there."""
        # Its client of MLflow takes seconds to import.
        from services.local.promotion import Promotion

        promotion = Promotion(self._settings, mlflow, addresses, self._announce)
        self._stack.callback(promotion.stop)
        promotion.start()
        self._promotion = promotion
        promotion.wait_served(_READY_SECONDS)

    def _served(self) -> dict[str, str]:
        """Role to version."""
        return self._promotion.served() if self._promotion is not None else {}

    def _announce(self, line: str) -> None:
        """What the promoter says; until the stream begins, the steps say enough."""
        if self._streaming:
            self._screen.say_later(line)

    def _watch(self, process: Process) -> Process:
        self._stack.callback(process.stop)
        self._processes.append(process)
        return process

    def _start(self, command: Command) -> Process:
        return self._watch(Process(command, self._settings.home))

    def _start_readers(self, addresses: Addresses) -> None:
        settings = self._settings
        commands = [
            (workloads.dashboard(settings, addresses), settings.dashboard_port),
            (workloads.notifier(settings, addresses), settings.notifier_port),
            *(
                (workloads.consumer(settings, addresses, n), settings.consumer_port + n)
                for n in range(self._options.consumers)
            ),
        ]
        started = [(self._start(command), port) for command, port in commands]
        for process, port in started:
            process.wait_ready(partial(responds, _readyz(port)), _READY_SECONDS)

    def _stream(self, producer: Process, run: Run) -> str:
        """Follows the stream to its end and drains; returns the producer's log."""
        self._streaming = True
        try:
            with self._screen.live():
                self._follow(producer, run)
        except KeyboardInterrupt:
            self._screen.say("draining; Ctrl-C again stops at once")
        producer.stop()
        self._processes.remove(producer)
        try:
            self._drain(run)
        except KeyboardInterrupt:
            self._screen.say("not drained: what is left in Kafka is taken in at the next start")
        return producer.log()

    def _follow(self, producer: Process, run: Run) -> None:
        """Returns when the time is up or the source has ended."""
        while not self._options.duration or self._meter.seconds() < self._options.duration:
            if producer.exit_status == 0:
                return
            self._check()
            self._show(run)
            time.sleep(_REFRESH_SECONDS)

    def _drain(self, run: Run) -> None:
        """Returns when nothing waits in Kafka, or when that has stopped getting less."""
        least, since = None, time.monotonic()
        while time.monotonic() - since < _STALLED_SECONDS:
            self._check()
            reading = self._show(run)
            if reading is not None and reading.lag == 0:
                return
            if reading is not None and (least is None or reading.lag < least):
                least, since = reading.lag, time.monotonic()
            time.sleep(_DRAIN_POLL_SECONDS)

    def _check(self) -> None:
        for process in self._processes:
            process.check()
        if self._promotion is not None:
            self._promotion.check()

    def _show(self, run: Run) -> Reading | None:
        try:
            reading = self._meter.read()
            self._screen.show(self._state(reading, run))
        except TemporaryError as exc:
            # Either it comes back, or its process is found dead.
            log.warning("demo.unreadable", extra={"problem": str(exc)})
            return None
        return reading

    def _state(self, reading: Reading, run: Run) -> State:
        rates = self._meter.rates
        rows = [
            PartState(name, _state_of(run.ready.get(name)), address=run.urls.get(name, ""))
            for name in (process.name for process in self._processes)
        ] + [
            PartState(role, UP, address=f"version {version}")
            for role, version in self._served().items()
        ]
        measured: dict[str, dict[str, Any]] = {
            "producer": {"rate": rates.appended},
            "consumer": {"rate": rates.taken, "lag": reading.lag},
        }
        return State(
            seconds=self._meter.seconds(),
            parts=[replace(row, **measured.get(row.name, {})) for row in rows],
            labels=self._meter.labels(),
            newest=self._meter.newest(_NEWEST_SHOWN),
        )


def _state_of(readyz: str | None) -> str:
    """Up, or what the part is waiting for. That it runs is checked elsewhere."""
    return (problem(readyz) if readyz else None) or UP


def _url(port: int) -> str:
    return f"http://{ADDRESS}:{port}"


def _readyz(port: int) -> str:
    return f"{_url(port)}/readyz"


def _describe(
    settings: LocalSettings, addresses: Addresses, mlflow_url: str, began_at: datetime
) -> Run:
    return Run(
        pid=os.getpid(),
        environment=addresses.public() | {"MOODSTREAM_MLFLOW_URL": mlflow_url},
        ready={
            "mlflow": f"{mlflow_url}/health",
            "predictor": f"{addresses.inference.url}/v2/models/{MODEL_NAME}/ready",
            "dashboard": _readyz(settings.dashboard_port),
            "consumer": _readyz(settings.consumer_port),
            "notifier": _readyz(settings.notifier_port),
            "producer": _readyz(settings.producer_port),
        },
        urls={
            "dashboard": _url(settings.dashboard_port),
            "mlflow": mlflow_url,
        },
        began_at=began_at,
    )


def _interrupt_on_sigterm() -> None:
    """SIGTERM, and a terminal that closes, do what Ctrl-C does."""

    def interrupt(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, interrupt)
