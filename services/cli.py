"""The `moodstream` command, for people and scripts. Every command has --json: one JSON object, on
the last line of standard output; everything else that is said goes to standard error then.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from enum import StrEnum
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, NoReturn, TypeVar

import typer
from pydantic_settings import BaseSettings
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from services.cluster.options import OperatorsFrom, Profile, Target
from services.cluster.options import Options as ClusterOptions
from services.core.contract import CHALLENGER, CHAMPION, MODEL_NAME
from services.core.errors import MoodstreamError
from services.core.settings import KafkaSettings, MLflowSettings, PostgresSettings, load
from services.local import run
from services.local.settings import LocalSettings

if TYPE_CHECKING:
    from services.core.model import SentimentModel
    from services.local.models import Outcome

app = typer.Typer(
    name="moodstream",
    help="Live sentiment of social posts: run the platform here, train, ask, look after it.",
    epilog="Start with: moodstream demo",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="rich",
    pretty_exceptions_enable=False,
)

cluster = typer.Typer(
    help="The platform on Kubernetes: bring it up, look at it, take it down.",
    epilog="Start with: moodstream cluster up",
    no_args_is_help=True,
)
app.add_typer(cluster, name="cluster")

S = TypeVar("S", bound=BaseSettings)


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(metadata.version("moodstream"))
        raise typer.Exit


@app.callback()
def moodstream(
    version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Print the version."),
    ] = False,
) -> None:
    pass


_INTERRUPTED: Final = 130


class Source(StrEnum):
    """Where posts come from."""

    REPLAY = "replay"
    BLUESKY = "bluesky"
    X = "x"


Json = Annotated[bool, typer.Option("--json", help="Print one JSON object, as the last line.")]


@app.command(
    epilog="moodstream demo  |  moodstream demo --rate 250 --duration 60 --json  |  "
    "moodstream demo --source bluesky --topics coffee,tea  |  moodstream demo --data posts.csv"
)
def demo(
    source: Annotated[
        Source, typer.Option(help="replay (a file), bluesky (live, free), x (live, needs a token).")
    ] = Source.REPLAY,
    topics: Annotated[
        str | None, typer.Option(help="Comma-separated keywords to follow; x needs some.")
    ] = None,
    rate: Annotated[
        float, typer.Option(min=0, help="Posts a second, for replay; 0: as fast as it goes.")
    ] = 50.0,
    duration: Annotated[
        float, typer.Option(min=0, help="Seconds; 0: until Ctrl-C or the end of the file.")
    ] = 0.0,
    data: Annotated[
        Path | None,
        typer.Option(
            exists=True, dir_okay=False, help="File to replay once. Default: our sample, in a loop."
        ),
    ] = None,
    consumers: Annotated[
        int, typer.Option(min=1, max=6, help="Consumers that share the work.")
    ] = 1,
    as_json: Json = False,
) -> None:
    """Runs the whole platform on this machine: Kafka, PostgreSQL, MLflow, predictor, producer,
    consumer and dashboard. Ctrl-C drains and stops everything; the next start goes on from there.

    Exits with 0 only when every post is accounted for.
    """
    # Imports that take a second or more stay out of --help's way.
    from services.local.demo import STEPS, Options
    from services.local.demo import run as run_demo
    from services.local.screen import Screen
    from services.local.workloads import Stream

    console = Console(stderr=as_json)
    with _errors():
        result = run_demo(
            Options(
                Stream(source.value, topics, rate, data.resolve() if data else None),
                duration,
                consumers,
            ),
            load(LocalSettings),
            Screen(console, STEPS),
        )
    _print(asdict(result), as_json)
    if result.unaccounted:
        _fail(f"{result.unaccounted} posts are unaccounted for", status=1)


@app.command(epilog="moodstream status  |  moodstream status --json | jq .lag")
def status(as_json: Json = False) -> None:
    """What runs in this folder: each part, versions, lag, rows, the newest post, the addresses.

    Exits with 1 when nothing runs or a part is not ready.
    """
    from services.local.status import take

    with _errors():
        report = take(load(LocalSettings))
    _print(report, as_json)
    if not report["running"] or not all(report["parts"].values()):
        raise typer.Exit(1)


@app.command(
    epilog="moodstream train  |  moodstream train tweets.csv more/ --test held-out.csv --json"
)
def train(
    data: Annotated[
        list[Path] | None,
        typer.Argument(help="Files or folders of labelled posts. Default: our sample."),
    ] = None,
    test: Annotated[
        Path | None, typer.Option(help="Labelled posts to measure on, never learned from.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Trains on labelled posts, measures, and registers a new version of the model in MLflow. Reads
    Sentiment140, TweetEval, SemEval and plain text,label files, told apart by content.
    """
    with _errors():
        from services.core.gate import GateSettings
        from training.registry import Registry
        from training.settings import TrainingSettings
        from training.train import train as run_training

        settings = load(TrainingSettings)
        given = {"data": ",".join(map(str, data)) if data else None, "test": test}
        settings = settings.model_copy(
            update={name: value for name, value in given.items() if value is not None}
        )
        result = run_training(
            settings,
            Registry(_settings(MLflowSettings).url),
            load(GateSettings),
            _warehouse(),
        )
    summary = {
        "version": result.version,
        "alias": result.alias,
        "gate": result.gate,
        "learned from": f"{result.rows} posts, {result.duplicates} repeated ones left out",
        "macro recall by cross-validation": {
            name: f"{found.macro_recall:.3f} ± {found.macro_recall_sd:.3f}"
            for name, found in result.candidates.items()
        },
        "chosen": result.candidate,
        f"on {result.evaluated_on}": {
            "macro recall": result.evaluation.macro_recall,
            "accuracy": result.evaluation.accuracy,
        },
        "seconds": result.seconds,
    }
    _print(asdict(result) if as_json else summary, as_json)


@app.command(
    epilog="moodstream evaluate --data held-out.csv  |  "
    "moodstream evaluate --data held-out.csv --version 3 --json"
)
def evaluate(
    data: Annotated[Path, typer.Option(exists=True, help="Labelled posts.")],
    version: Annotated[str, typer.Option(help="A version's number or alias.")] = CHAMPION,
    as_json: Json = False,
) -> None:
    """Measures a version of the model on labelled posts, with the code that the predictor runs."""
    with _errors():
        from training.evaluate import evaluate as measure
        from training.readers import read

        dataset = read(data)
        model = _registered(version)
        result = asdict(measure(model, dataset))
    shown = ("rows", "accuracy", "macro_recall", "macro_f1", "per_label")
    named = {"model": {"name": MODEL_NAME, "version": model.version}}
    _print({name: result[name] for name in shown} | named, as_json)


@app.command(epilog="moodstream predict 'what a great day' 'never again :('")
def predict(
    texts: Annotated[list[str], typer.Argument(help="One post each.", metavar="TEXT...")],
    as_json: Json = False,
) -> None:
    """Scores texts: with the predictor when one answers, else with the registry's champion."""
    with _errors():
        from services.core.contract import LABELS, labels_of, scores_of
        from services.core.inference import InferenceClient
        from services.core.settings import InferenceSettings

        client = InferenceClient(_settings(InferenceSettings))
        if client.ready():
            scored = client.score(texts)
            probabilities, version = scored.probabilities, scored.model_version
        else:
            model = _registered(CHAMPION)
            probabilities, version = model.predict(texts), model.version
    rows = zip(
        texts, labels_of(probabilities), scores_of(probabilities), probabilities, strict=True
    )
    predictions = [
        {
            "text": text,
            "label": label,
            "score": round(float(score), 4),
            "probabilities": dict(zip(LABELS, (round(float(p), 4) for p in row), strict=True)),
        }
        for text, label, score, row in rows
    ]
    if as_json:
        named = {"name": MODEL_NAME, "version": version}
        _print({"predictions": predictions, "model": named}, as_json)
    else:
        for prediction in predictions:
            typer.echo(f"{prediction['label']:8} {prediction['score']:+.2f}  {prediction['text']}")


@app.command(
    "replay-dead-letters",
    epilog="moodstream replay-dead-letters --reason too_large  |  "
    "moodstream replay-dead-letters --limit 100 --json",
)
def replay_dead_letters(
    reason: Annotated[str | None, typer.Option(help="Only records set aside for this.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="At most so many records.")] = None,
    as_json: Json = False,
) -> None:
    """Publishes the dead letters again as they first arrived, each once. A record that still cannot
    be taken in becomes a new dead letter.
    """
    from services.consumer.replay import replay

    with _errors():
        result = replay(_settings(KafkaSettings), reason, limit)
    _print(asdict(result), as_json)


@app.command(epilog="moodstream clean")
def clean(as_json: Json = False) -> None:
    """Removes everything that the local platform keeps in this folder: data, models, logs."""
    with _errors():
        home = load(LocalSettings).home
        removed = run.remove(home)
    _print({"removed": str(home) if removed else None}, as_json)


Wait = Annotated[bool, typer.Option(help="Follow it until it serves, or does not.")]


class Alias(StrEnum):
    """What a version can be promoted to."""

    CHAMPION = CHAMPION
    CHALLENGER = CHALLENGER


@app.command("models", epilog="moodstream models  |  moodstream models --json | jq '.models[0]'")
def list_models(as_json: Json = False) -> None:
    """The versions of the model, newest first: aliases, what became of each, why and since when.

    Reads the MLflow of the platform in this folder, else that of MOODSTREAM_MLFLOW_URL.
    """
    from services.local.models import Models

    with _errors():
        versions = Models(_settings(MLflowSettings).url).versions()
    if as_json:
        _print({"models": [asdict(version) for version in versions]}, as_json)
        return
    table = Table("version", "aliases", "state", "since", "macro recall", "reason", box=None)
    for each in versions:
        state = f"{each.state} as {each.role}" if each.state else "-"
        recall = "-" if each.macro_recall is None else f"{each.macro_recall:.3f}"
        since = (each.at or "-").partition(".")[0].removesuffix("+00:00")
        shown = (each.version, " ".join(each.aliases), state, since, recall, each.reason or "")
        table.add_row(*map(escape, shown))
    Console().print(table)


@app.command(
    epilog="moodstream promote 3  |  moodstream promote challenger  |  "
    "moodstream promote 4 --alias challenger --no-wait --json"
)
def promote(
    version: Annotated[str, typer.Argument(help="A version's number or alias.")],
    alias: Annotated[
        Alias, typer.Option(help="champion serves; challenger is compared beside it.")
    ] = Alias.CHAMPION,
    wait: Wait = True,
    as_json: Json = False,
) -> None:
    """Sets an alias on a version, as MLflow's page does, and follows what the promoter makes of it.
    One that was refused or rolled back is tried again.

    Exits with 1 when it does not come to serve.
    """
    from services.local import models

    with _errors():
        client = models.Models(_settings(MLflowSettings).url)
        outcome = models.promote(client, version, alias.value, wait=wait, say=_aside)
    _tell(outcome, as_json)


@app.command(epilog="moodstream rollback  |  moodstream rollback --no-wait --json")
def rollback(wait: Wait = True, as_json: Json = False) -> None:
    """Makes the version that served before the champion again, and follows it until it serves."""
    from services.local import models

    with _errors():
        client = models.Models(_settings(MLflowSettings).url)
        outcome = models.rollback(client, wait=wait, say=_aside)
    _tell(outcome, as_json)


@app.command(epilog="moodstream withdraw  |  moodstream withdraw --no-wait --json")
def withdraw(wait: Wait = True, as_json: Json = False) -> None:
    """Takes the alias challenger away, and follows the challenger until it is stopped."""
    from services.local import models

    with _errors():
        client = models.Models(_settings(MLflowSettings).url)
        outcome = models.withdraw(client, wait=wait, say=_aside)
    _tell(outcome, as_json)


TargetOption = Annotated[
    Target, typer.Option(help="kind (a cluster of our own in Docker) or current (kubectl's).")
]
ContextOption = Annotated[
    str | None, typer.Option(help="kubectl's context. Default: kind's, or the current one.")
]


@cluster.command(
    "up",
    epilog="moodstream cluster up  |  moodstream cluster up --target current --operators present "
    "--values my-values --loader 'my-loader --quiet'",
)
def cluster_up(
    target: TargetOption = Target.KIND,
    context: ContextOption = None,
    operators: Annotated[
        OperatorsFrom, typer.Option(help="install them, or use those that are present.")
    ] = OperatorsFrom.INSTALL,
    loader: Annotated[
        str,
        typer.Option(
            help="How our images reach the nodes: kind, none, or a command that is called with "
            "their names. Default: kind on a kind cluster, else none."
        ),
    ] = "",
    profile: Annotated[
        Profile, typer.Option(help="Sizes: a folder of manifests/profiles.")
    ] = Profile.KIND,
    values: Annotated[
        Path | None,
        typer.Option(help="Folder with platform.yaml, mlflow.yaml, moodstream.yaml; any of them."),
    ] = None,
    monitoring: Annotated[bool, typer.Option(help="Prometheus and Grafana too.")] = False,
    as_json: Json = False,
) -> None:
    """Brings the whole platform up in a Kubernetes cluster. Safe to run again at any point: what is
    done is not done twice.
    """
    from services.cluster.screen import Screen
    from services.cluster.up import STEPS
    from services.cluster.up import run as bring_up

    options = ClusterOptions(target, operators, loader, profile, values, context, monitoring)
    with _errors():
        result = bring_up(options, Screen(Console(stderr=as_json), STEPS))
    _print(asdict(result), as_json)


@cluster.command(
    "down",
    epilog="moodstream cluster down  |  moodstream cluster down --target current --purge",
)
def cluster_down(
    target: TargetOption = Target.KIND,
    context: ContextOption = None,
    purge: Annotated[
        bool, typer.Option(help="The namespace too, with its secrets and all its data.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Removes the kind cluster; on another cluster our releases, whose data goes with them. The
    operators and the namespace stay there. Nothing is asked.
    """
    from services.cluster.down import STEPS
    from services.cluster.down import run as take_down
    from services.cluster.screen import Screen

    steps = 1 if target is Target.KIND else STEPS
    with _errors():
        seconds = take_down(
            ClusterOptions(target, context=context), purge, Screen(Console(stderr=as_json), steps)
        )
    _print({"seconds": seconds}, as_json)


@cluster.command("status", epilog="moodstream cluster status --json | jq .lag")
def cluster_status(
    target: TargetOption = Target.KIND, context: ContextOption = None, as_json: Json = False
) -> None:
    """One table: each part with its version, lag, rows a minute, the alias against what is served,
    the newest post, the addresses. Exits with 1 when a part is not ready.
    """
    from services.cluster.status import take

    with _errors():
        report = take(ClusterOptions(target, context=context))
    if as_json:
        _print(report.as_json(), as_json)
    else:
        table = Table("component", "ready", "version", box=None)
        for part in report.parts:
            table.add_row(part.name, part.waiting_for or "yes", part.version)
        Console().print(table)
        _print(report.summary(), as_json)
    if not report.ready:
        raise typer.Exit(1)


@cluster.command("logs", epilog="moodstream cluster logs --component consumer --no-follow")
def cluster_logs(
    target: TargetOption = Target.KIND,
    context: ContextOption = None,
    component: Annotated[str | None, typer.Option(help="Of this one alone.")] = None,
    follow: Annotated[bool, typer.Option(help="Go on with what comes.")] = True,
) -> None:
    """What all our pods say, each line with its pod."""
    from services.cluster.logs import show

    with _errors():
        status = show(ClusterOptions(target, context=context), component, follow)
    raise typer.Exit(status)


@cluster.command("doctor", epilog="moodstream cluster doctor --target current --json")
def cluster_doctor(
    target: TargetOption = Target.KIND,
    context: ContextOption = None,
    operators: Annotated[OperatorsFrom, typer.Option(help="As for up.")] = OperatorsFrom.INSTALL,
    profile: Annotated[Profile, typer.Option(help="As for up.")] = Profile.KIND,
    values: Annotated[Path | None, typer.Option(help="As for up.")] = None,
    as_json: Json = False,
) -> None:
    """Checks tools, machine, cluster and platform, and says how to mend what is wrong. Exits with 1
    when something is.
    """
    from services.cluster.doctor import run as examine

    options = ClusterOptions(target, operators, "", profile, values, context)
    checks = []
    with _errors():
        for check in examine(options):
            checks.append(check)
            if not as_json:
                sign = "ok   " if check.well else "WRONG"
                Console().print(f"{sign} {check}", markup=False, highlight=False, soft_wrap=True)
    if as_json:
        _print({"checks": [asdict(check) for check in checks]}, as_json)
    if not all(check.well for check in checks):
        raise typer.Exit(1)


@app.command(
    "correct",
    epilog="moodstream correct labels.csv --by 'Ada Lovelace'  |  "
    "moodstream correct labels.csv --by ada --json",
)
def correct_labels(
    file: Annotated[
        Path, typer.Argument(exists=True, dir_okay=False, help="CSV: source,id,label.")
    ],
    by: Annotated[str, typer.Option(help="Who says so.")],
    as_json: Json = False,
) -> None:
    """Stores what people say the labels of posts are, from a file, all or nothing. The next
    training learns from them.
    """
    from services.dashboard.corrections import correct

    with _errors():
        stored = correct(_warehouse(), file, by)
    _print({"corrections": stored}, as_json)


@app.command(
    epilog="moodstream export posts.csv --topic tea  |  "
    "moodstream export days.xlsx --what days --since 2026-01-01T00:00:00Z"
)
def export(
    file: Annotated[Path, typer.Argument(dir_okay=False, help="What to write; .csv, .jsonl ...")],
    what: Annotated[
        str,
        typer.Option(help="posts, minutes, hours, days, predictions, corrections, promotions."),
    ] = "posts",
    topic: Annotated[str | None, typer.Option(help="Of one topic.")] = None,
    label: Annotated[str | None, typer.Option(help="negative, neutral or positive.")] = None,
    language: Annotated[str | None, typer.Option(help="Of one language.")] = None,
    text: Annotated[str | None, typer.Option(help="Contained in the post.")] = None,
    since: Annotated[str | None, typer.Option(help="From then on; ISO 8601 with a zone.")] = None,
    until: Annotated[str | None, typer.Option(help="Until then.")] = None,
    as_json: Json = False,
) -> None:
    """Writes what is stored to a file: CSV, JSON lines, Parquet or Excel, by the file's ending."""
    from pydantic import ValidationError

    from services.dashboard.corrections import reasons
    from services.dashboard.exports import Export, write

    given = {
        "what": what,
        "format": file.suffix.lower().lstrip("."),
        "topic": topic,
        "label": label,
        "language": language,
        "text": text,
        "since": since,
        "until": until,
    }
    with _errors():
        try:
            wanted = Export.model_validate(given)
        except ValidationError as exc:
            raise typer.BadParameter(reasons(exc)) from None
        size = write(_warehouse(), wanted, file)
    _print({"file": str(file), "bytes": size}, as_json)


def _settings(group: type[S]) -> S:
    """With the addresses of the platform that runs in this folder, else from the environment."""
    return run.settings(run.find(load(LocalSettings).home), group)


def _warehouse() -> PostgresSettings:
    """The same for PostgreSQL, whose password is in the folder and not among the addresses."""
    from services.local.postgres import Postgres

    home = load(LocalSettings).home
    postgres = _settings(PostgresSettings)
    return postgres if run.find(home) is None else Postgres(home, postgres.port).settings


def _registered(selector: str) -> "SentimentModel":
    """A version from the registry, kept in this folder."""
    from services.core.model import load as load_model
    from services.local.model import fetch

    fetched = fetch(load(LocalSettings).home, _settings(MLflowSettings).url, selector)
    return load_model(fetched.folder, fetched.version)


def _aside(line: str) -> None:
    """Says what happens meanwhile."""
    typer.echo(line, err=True)


def _tell(outcome: "Outcome", as_json: bool) -> None:
    _print(asdict(outcome), as_json)
    if not outcome.good:
        _fail(f"version {outcome.version} is {outcome.state}: {outcome.reason}", status=1)


def main() -> None:
    """The entry point."""
    app()


@contextmanager
def _errors() -> Iterator[None]:
    """Our own errors become one message on standard error and exit status 1."""
    try:
        yield
    except MoodstreamError as exc:
        _fail(str(exc), status=1)
    except KeyboardInterrupt:
        _fail("stopped", status=_INTERRUPTED)


def _fail(message: str, status: int) -> NoReturn:
    typer.echo(f"moodstream: {message}", err=True)
    raise typer.Exit(status)


def _print(values: Mapping[str, Any], as_json: bool) -> None:
    if as_json:
        typer.echo(json.dumps(values, default=str))
        return
    table = Table(show_header=False, box=None)
    for name, value in values.items():
        table.add_row(name.replace("_", " "), _text(value))
    Console().print(table)


def _text(value: Any) -> str:
    if isinstance(value, Mapping):
        lines = any(isinstance(inner, Mapping) for inner in value.values())
        separator, sign = ("\n", ": ") if lines else ("  ", " ")
        return separator.join(f"{name}{sign}{_text(inner)}" for name, inner in value.items())
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, float):
        return f"{value:.4g}"
    return "-" if value is None else str(value)
