"""Logs: JSON lines outside a terminal, readable lines in one. Libraries' own loggers go through it
too.
"""

import logging
import sys

import structlog
import structlog.tracebacks

_TRACEBACKS = structlog.processors.ExceptionRenderer(
    # Local variables hold passwords and people's posts.
    structlog.tracebacks.ExceptionDictTransformer(show_locals=False)
)


def configure(level: str, service: str) -> None:
    """Sends every logger of this process to standard error. Called once, by a service's main."""
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper(fmt="iso", utc=True),
    ]
    terminal = sys.stderr.isatty()
    last: list[structlog.typing.Processor] = (
        [structlog.dev.ConsoleRenderer()]
        if terminal
        else [_TRACEBACKS, structlog.processors.JSONRenderer()]
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[
                structlog.stdlib.ProcessorFormatter.remove_processors_meta,
                _without_color_message,
                *last,
            ],
        )
    )
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(True)
    # kafka-python logs each reconnect attempt of a broker that is away; our own events say it once.
    logging.getLogger("kafka").setLevel(max(logging.WARNING, logging.getLevelName(level)))
    structlog.contextvars.bind_contextvars(service=service)


def _without_color_message(
    logger: object, name: str, event: structlog.typing.EventDict
) -> structlog.typing.EventDict:
    """uvicorn sends each of its messages twice, once with terminal colours."""
    event.pop("color_message", None)
    return event
