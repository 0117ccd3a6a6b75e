"""The reference of what is commanded, asked, measured and sent, read from the code that does it.

docs/reference.py writes the pages. What the code cannot say of itself is said here, by name: a name
that is new, or gone, ends the writing with a KeyError or fails a test.
"""

import importlib
import json
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path
from typing import Any, Final
from unittest.mock import Mock

import typer
import yaml
from prometheus_client import CollectorRegistry, Counter, Info

from services.cli import app
from services.consumer.batch import DeadLetter, Record
from services.consumer.dead_letters import headers
from services.core.events import MAX_RECORD_BYTES, Post, encode, json_schema
from services.dashboard.app import DriftGauges
from services.dashboard.queries import Warehouse
from services.notifier.deliver import News, _flat, coalesce
from tests.hostile.asking import documented, hidden

ROOT: Final = Path(__file__).parents[1]
_WRITTEN: Final = "This page is written by `make docs` from the code.\n"
_AN_INSTANT: Final = datetime(2026, 3, 10, 12, tzinfo=UTC)

# Commands.

JOBS: Final = {
    "services.etl": "services.etl.app",
    "services.maintenance": "services.maintenance.app",
    "services.consumer.replay": "services.consumer.replay",
    "training": "training.app",
    "training.drift": "training.drift",
}
"""What `python -m` runs besides the services, and the module that says what it does."""


def commands() -> str:
    """The page of commands."""
    head = (
        "# Commands\n\n"
        "`moodstream` is in `.venv/bin` once `make setup` or `make demo` has run.\n"
        "With `--json` a command prints one JSON object, as the last line of standard output.\n"
        "Exit status 0 is success, 1 a failure that is explained on standard error, 2 a command or "
        "a setting that cannot be, 130 an interrupt.\n"
        f"{_WRITTEN}"
    )
    parts = [_command(name, command) for name, command in leaves()]
    return "\n".join([head, *parts, _jobs()])


def leaves() -> Iterator[tuple[str, Any]]:
    """Every command with the words that call it, as typer's parser knows it."""

    def below(words: str, command: Any) -> Iterator[tuple[str, Any]]:
        if not hasattr(command, "commands"):
            yield words, command
            return
        for name, child in command.commands.items():
            yield from below(f"{words} {name}", child)

    return below("moodstream", typer.main.get_command(app))


def _command(words: str, command: Any) -> str:
    rows = [_parameter(each) for each in command.params]
    examples = "".join(f"{each.strip()}\n" for each in command.epilog.split("  |  "))
    return (
        f"## {words}\n\n{_paragraphs(command.help)}\n\n"
        + _table("argument or option | default | meaning", rows)
        + f"\n```sh\n{examples}```\n"
    )


def _parameter(parameter: Any) -> tuple[str, str, str]:
    kind = parameter.type_descriptor.annotation
    choices = "|".join(kind) if isinstance(kind, type) and issubclass(kind, Enum) else ""
    if parameter.opts[0].startswith("-"):
        flag = getattr(parameter, "is_flag", False)
        value = "" if flag else f" {choices or parameter.name.upper()}"
        named = ", ".join(f"`{each}{value}`" for each in parameter.opts + parameter.secondary_opts)
    else:
        named = f"`{parameter.name.upper()}{'...' if parameter.nargs < 0 else ''}`"
    default = parameter.default
    if isinstance(default, Enum):
        default = default.value
    if parameter.required:
        shown = "required"
    elif isinstance(default, bool):
        shown = "on" if default else "off"
    else:
        shown = "" if default in (None, "") else f"`{default}`"
    return named, shown, _one_line(parameter.help)


def _jobs() -> str:
    parts = [
        "## python -m\n\n"
        "What a cluster runs as Jobs can be run by hand, with the settings of its group.\n"
        "Each prints its result as one JSON line. "
        "In `make demo`'s installation it is `.venv/bin/python -m`.\n"
    ]
    for name, source in JOBS.items():
        said = importlib.import_module(source).__doc__ or ""
        text = "\n".join(line for line in said.splitlines() if not line.startswith("python -m "))
        calls = [line for line in said.splitlines() if line.startswith("python -m ")]
        parts.append(f"### python -m {name}\n\n{_paragraphs(text)}\n")
        if calls:
            rows = [[part.strip() for part in line.split("  ", 1)] for line in calls]
            parts.append(_table("command | what", [(f"`{what}`", why) for what, why in rows]))
    return "\n".join(parts)


# Addresses.

UNDOCUMENTED: Final = {
    "/": "the page; `?token=` becomes a cookie",
    "/static": "the page's files",
    "/api/docs": "the API for people, to try",
    "/api/openapi.json": "the same for programs: every parameter, body and answer",
    "/livez": "200 while the process makes progress",
    "/readyz": "200, or 503 and what is missing",
    "/metrics": "[metrics](metrics.md), for Prometheus",
}
PREDICTOR: Final = {
    "GET /": "that it lives",
    "GET /livez": "200, or 503 and why the model does not answer",
    "GET /readyz": "200, or 503 while it is about to end",
    "GET /metrics": "[metrics](metrics.md), for Prometheus",
    "GET /v1/models": "V1: the models' names",
    "GET /v1/models/{name}": "V1: whether the model is ready",
    "POST /v1/models/{name}:predict": "V1: `instances` in, `predictions` out",
    "GET /v2": "V2: the server and its extensions",
    "GET /v2/health/live": "V2: that it lives",
    "GET /v2/health/ready": "V2: whether every model is ready",
    "GET /v2/models": "V2: the models' names",
    "GET /v2/models/{name}": "V2: the version that is served, its inputs and outputs",
    "GET /v2/models/{name}/ready": "V2: whether the model is ready",
    "GET /v2/models/{name}/versions/{version}/ready": "V2: as without a version",
    "POST /v2/models/{name}/infer": "V2: texts in; labels, probabilities and scores out",
}
"""Method and path, and what is answered."""

_NOTHING: Final = "/{path:path}"
"""The predictor's route for what must not be open."""


def addresses() -> str:
    """The page of addresses."""
    document = documented()
    tags: dict[str, list[tuple[str, str, str]]] = {}
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            tag = operation.get("tags", ["who"])[0]
            row = (
                f"`{method.upper()} {path}`",
                ", ".join(
                    _query(document, each)
                    for each in operation.get("parameters", ())
                    if each["in"] == "query"
                ),
                _one_line(operation["description"]),
            )
            tags.setdefault(tag, []).append(row)
    head = (
        "# Addresses\n\n"
        "What the dashboard and the predictor answer over HTTP.\n"
        f"{_WRITTEN}\n"
        "## The dashboard\n\n"
        "`make demo` has it at <http://127.0.0.1:18000>, where `/api/docs` shows the same with "
        "every field and lets you try it.\n"
        "Reading needs the role viewer, what changes something the role editor; [exports]"
        "(exports.md) say how a token is given.\n"
        "A parameter with `=` has that default; times are ISO 8601 with a zone.\n"
        'A refusal is `{"problem": "why"}`.\n'
    )
    parts = [head]
    for tag, rows in tags.items():
        parts.append(f"### {tag}\n\n{_table('address | parameters | what', rows)}")
    refusals = {
        f"`{status}`": answer["description"]
        for methods in document["paths"].values()
        for operation in methods.values()
        for status, answer in operation["responses"].items()
        if status >= "4"
    }
    parts.append(f"### refusals\n\n{_table('status | meaning', sorted(refusals.items()))}")
    others = [(f"`{path}`", UNDOCUMENTED[path]) for path in sorted(hidden())]
    parts.append(f"### for browsers and machines\n\n{_table('address | what', others)}")
    parts.append(
        "`/livez`, `/readyz` and `/metrics` are answered by every other service as well, on "
        "`MOODSTREAM_SERVICE_PORT`.\n"
    )
    rows = [(f"`{each}`", PREDICTOR[each]) for each in predictor()]
    parts.append(
        "## The predictor\n\n"
        "`make demo` has it at <http://127.0.0.1:18080>; the model is called `sentiment`.\n"
        "It speaks the [Open Inference Protocol](https://github.com/kserve/open-inference-protocol)"
        " (V2) and its predecessor (V1), and V2 over gRPC on the next port.\n"
        'A wrong request is 400 with `{"error": "why"}`, another model\'s name 404, a body over '
        "16 MB 413.\n\n" + _table("address | what", rows)
    )
    return "\n".join(parts)


def predictor() -> list[str]:
    """Method and path of everything that the predictor serves over REST."""
    # Importing the SDK takes seconds, which the other pages need not wait for.
    from fastapi import FastAPI
    from kserve import ModelRepository
    from kserve.protocol.dataplane import DataPlane
    from kserve.protocol.rest.server import RESTServer
    from starlette.routing import Route

    from services.predictor.rest import routes

    sdk = FastAPI()
    server = Mock(spec_set=["dataplane", "model_repository_extension"])
    server.dataplane = DataPlane(ModelRepository())
    RESTServer._register_endpoints(server, sdk)
    # What may be posted is ours alone.
    found = {f"GET {path}" for path, methods in sdk.openapi()["paths"].items() if "get" in methods}
    for route in routes(Mock(), lambda: False):
        if isinstance(route, Route) and route.path != _NOTHING:
            found |= {f"{each} {route.path}" for each in (route.methods or ()) if each != "HEAD"}
    return sorted({each.replace("{model_", "{") for each in found})


def _query(document: Mapping[str, Any], parameter: Mapping[str, Any]) -> str:
    schema = parameter["schema"]
    default = schema.get("default")
    shown = "" if default is None else f"={json.dumps(default)}".replace('"', "")
    choices = list(_choices(document, schema))
    return f"`{parameter['name']}{shown}`" + (f" ({', '.join(choices)})" if choices else "")


def _choices(document: Mapping[str, Any], schema: Mapping[str, Any]) -> Iterator[str]:
    if "$ref" in schema:
        schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
    yield from schema.get("enum", ())
    for each in (*schema.get("anyOf", ()), *schema.get("allOf", ())):
        yield from _choices(document, each)


# Metrics and alerts.

METERS: Final = tuple(sorted(ROOT.glob("services/*/metrics.py")))


def measures() -> str:
    """The page of metrics and alerts."""
    head = (
        "# Metrics and alerts\n\n"
        "Every service answers `/metrics` in Prometheus' text format; with "
        "`monitoring.enabled=true` the charts have them scraped.\n"
        "A counter's name ends with `_total`, a histogram has `_bucket`, `_sum` and `_count`.\n"
        "The predictor also has those of KServe's model server (`request_predict_seconds` and its "
        "like), every process those of Python's client (`process_*`, `python_*`).\n"
        f"{_WRITTEN}"
    )
    parts = [head]
    for service, rows in metrics().items():
        parts.append(f"## {service}\n\n{_table('metric | type | labels | meaning', rows)}")
    parts.append(
        "## Alerts\n\n"
        "For Prometheus, with `monitoring.enabled=true`; what people are told about posts is in "
        "[alerts](alerts.md).\n\n"
        + _table("alert | severity | after | meaning", [_alert(path) for path in alerts()])
    )
    return "\n".join(parts)


def metrics() -> dict[str, list[tuple[str, str, str, str]]]:
    """By service: name, type, labels and meaning of each metric."""
    found = {
        path.parent.name: [
            row
            for each in vars(importlib.import_module(_module(path))).values()
            if hasattr(each, "collect") and not isinstance(each, type | CollectorRegistry)
            for row in _families(each)
        ]
        for path in METERS
    }
    warehouse = Mock(spec_set=Warehouse)
    warehouse.snapshot.return_value.drift = []
    return {**found, "dashboard": list(_families(DriftGauges(warehouse)))}


def alerts() -> list[Path]:
    """Every alert's file, by name."""
    return sorted(ROOT.glob("charts/*/alerts/*.yaml"), key=lambda path: path.stem)


def _families(collector: Any) -> Iterator[tuple[str, str, str, str]]:
    suffix = {Counter: "_total", Info: "_info"}.get(type(collector), "")
    for family in collector.collect():
        # A metric with labels has no samples before its first use, so they do not say which.
        labels = getattr(collector, "_labelnames", None) or getattr(family, "_labelnames", ())
        named = ", ".join(f"`{label}`" for label in labels)
        yield f"`{family.name}{suffix}`", family.type, named, _one_line(family.documentation)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def _alert(path: Path) -> tuple[str, str, str, str]:
    rule = yaml.safe_load(path.read_text())
    return (
        f"[{path.stem}](runbooks/{path.stem}.md)",
        rule["labels"]["severity"],
        str(rule.get("for", "at once")),
        _one_line(rule["annotations"]["summary"]),
    )


# Events.

_HEADERS: Final = {
    "topic": "Kafka topic that the record was in",
    "partition": "its partition",
    "offset": "its offset",
    "connector.name": "always `moodstream-consumer`",
    "task.id": "always 0",
    "stage": "where it was found: `decode` or `score`",
    "class.name": "always `services.consumer`",
    "exception.class.name": "the reason, one word of the table below",
    "exception.message": "the same as a sentence",
}
REASONS: Final = {
    "tombstone": "the record has no value",
    "too_large": f"its value is over {MAX_RECORD_BYTES:,} bytes",
    "invalid_utf8": "its value is no UTF-8",
    "invalid_json": "its value is no JSON",
    "unsupported_schema": "`schema` is a number that this release does not know",
    "missing_field": "a field that a post needs is missing",
    "invalid_field": "a field has a wrong type, length or time",
    "rejected_by_model": "the predictor blames this one text",
}
"""Of dead letters."""
TYPES: Final = {
    "alert.opened": "a rule has begun to hold",
    "alert.closed": "it is over",
    "alert.test": "somebody has pressed a rule's test button",
    "model.rollout": "a model version was refused, rolls out, serves, was rolled back or replaced",
    "alert.several": "several of these within a minute; `text` lists them",
}
"""Of messages to channels."""
_DATA: Final = {
    "title": ("text", "a few words"),
    "text": ("text", "a sentence"),
    "rule": ("text", "the rule's name; empty for `model.rollout`"),
    "rule_kind": ("text", "its kind: `level`, `change` ...; `model` for `model.rollout`"),
    "topic": ("text", "what it is about; `*` for everything"),
    "value": ("number or null", "what was measured"),
    "usual": ("number or null", "what is usual, where the rule compares"),
    "posts": ("number or null", "how many posts it was measured on"),
    "model_version": ("text", "of `model.rollout`: the version; else empty"),
    "model_state": ("text", "of `model.rollout`: what became of it; else empty"),
    "at": ("time", "when it was so"),
    "count": ("number", "how many things the message tells"),
    "url": ("text", "address of the dashboard (`MOODSTREAM_NOTIFIER_DASHBOARD_URL`)"),
}
_SIGNED: Final = {
    "webhook-id": "the same for every try of one message: remember it to act once",
    "webhook-timestamp": "seconds since 1970 of this try",
    "webhook-signature": "only with a `secret`: `v1,` and the base64 of HMAC-SHA256 over id, "
    "timestamp and body, joined with dots",
}
KUBERNETES: Final = {
    "ModelPromoted": "a version was handed to KServe",
    "ModelServed": "it is served, and has answered right",
    "ModelRefused": "a check has failed; what was served serves on",
    "ModelRolledBack": "it did not answer right in time; the last good version is set again",
    "ModelStopped": "the challenger was taken away",
    "EditedByHand": "somebody else has changed the InferenceService; it is put right",
}
"""Reasons of the promoter's Events."""


def events() -> str:
    """The page of events."""
    post = Post(
        source="bluesky",
        id="3kabc@did:plc:example",
        text="what a good cup of tea",
        language="en",
        created_at=_AN_INSTANT,
        author="0" * 32,
        topics=("tea",),
    )
    fields = [
        (
            f"`{field.alias or name}`",
            "required" if field.is_required() else "optional",
            _one_line(field.description) or f"Version of this format, {field.default}.",
        )
        for name, field in Post.model_fields.items()
    ]
    record = Record("posts", 0, 0, 0, None, None)
    names = [name for name, _ in headers(DeadLetter(record, "decode", "tombstone", ""))]
    parts = [
        f"# Events\n\nWhat goes through Kafka, and what leaves by webhook.\n{_WRITTEN}",
        "## A post, in the Kafka topic `posts`\n\n"
        f"The value is JSON in UTF-8, at most {MAX_RECORD_BYTES:,} bytes; the key is "
        f"`source/id`, here `{post.key.decode()}`, so that all records of one post share a "
        "partition.\n"
        "Another program may write them too: a reader ignores fields that it does not know, and a "
        "changed meaning is a new `schema`.\n\n" + _table("field | | meaning", fields),
        f"```json\n{json.dumps(json.loads(encode(post)), indent=2)}\n```\n",
        f"### As JSON Schema\n\n```json\n{json_schema()}\n```\n",
        "## A dead letter, in the Kafka topic `posts.dead-letter`\n\n"
        "Key, value, headers and time are the record's own; these headers, which Kafka Connect has "
        "too, are added:\n\n"
        + _table(
            "header | meaning",
            [(f"`{name}`", _HEADERS[name.removeprefix("__connect.errors.")]) for name in names],
        ),
        _table("reason | meaning", [(f"`{name}`", why) for name, why in REASONS.items()]),
        "## A message to a channel\n\n"
        "A webhook gets it as the body of a POST; for people its `title` and `text` are sent. "
        "[Alerts](alerts.md) say when, and how often it is tried.\n\n"
        + _table("type | when", [(f"`{name}`", why) for name, why in TYPES.items()]),
        "`data` has the same keys for every type:\n\n"
        + _table("key | type | meaning", [(f"`{key}`", *_DATA[key]) for key in _example()["data"]]),
        f"```json\n{json.dumps(_example(), indent=2)}\n```\n",
        _table("header | meaning", [(f"`{name}`", why) for name, why in _SIGNED.items()]),
        "## Events in Kubernetes\n\n"
        "The promoter tells about an InferenceService, for `kubectl describe`:\n\n"
        + _table("reason | when", [(f"`{name}`", why) for name, why in KUBERNETES.items()]),
    ]
    return "\n".join(parts)


def _example() -> dict[str, Any]:
    """A message as the notifier makes it."""
    said = {
        "rule": "trains-turn-sour",
        "kind": "negative_share",
        "topic": "trains",
        "summary": "trains: 46 % negative of 61 posts in the last 15 minutes",
        "value": 0.46,
        "posts": 61,
        "at": _AN_INSTANT.isoformat(),
    }
    return coalesce([News("alert.opened", _AN_INSTANT, _flat("alert.opened", said))], "")


# How a page is put together.


def _table(head: str, rows: Iterable[Iterable[str]]) -> str:
    columns = head.count("|") + 1
    lines = [f"| {head} |", "| " + " | ".join(["---"] * columns) + " |"]
    lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in row) + " |" for row in rows]
    return "\n".join(lines) + "\n"


def _paragraphs(text: str | None) -> str:
    """Without the code's line breaks."""
    blocks = (text or "").strip().split("\n\n")
    return "\n\n".join(_one_line(block) for block in blocks if block.strip())


def _one_line(text: str | None) -> str:
    return " ".join((text or "").split())
