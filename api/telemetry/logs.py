"""The log of a process: one line of JSON per event, or a readable form in a terminal; always on stderr.

    {"event": "a handler failed", "object": "Counter/a", "offset": "3:17", "trace":
    "4bf9…", "level": "error", …}

Laws
- Lines of `structlog` and of the standard library's `logging` look alike, perdure's and the app's.
- A line that is logged while a turn runs names the object, the place on the log and the trace. The line reads
  them from the turn, so that a turn without lines pays nothing.
- No secret leaves in a line (see api/telemetry/redact.py).
- In a terminal an error shows the user's own lines, not perdure's.
- Under `perdure dev` the partitions of a normal start have no lines, except at level debug.

[test_logs.py]
"""

from __future__ import annotations

import logging
import re
import sys
from functools import partial
from typing import Any, TextIO

import structlog
from structlog.typing import EventDict, Processor

from perdure.api.telemetry.redact import Scrubber, credentials_in
from perdure.api.worker.worker import WorkerCaller
from perdure.objects.overlay import current_turn
from perdure.schemas.config import Config
from perdure.streams.turns.activation import Turn
from perdure.streams.turns.log_fields import of_trace, turn_fields
from perdure.streams.turns.supervision.failure_log import error_fields

# they log each request or connection with its URL; perdure logs what matters of it itself
_QUIET = {"aiokafka": logging.CRITICAL, "httpx": logging.WARNING, "httpcore": logging.WARNING}
_QUIET |= {"urllib3": logging.WARNING, "asyncio": logging.WARNING, "websockets": logging.WARNING}
_PARTITIONS = "perdure.streams.owner.log_lines"  # two lines for each partition of a start
_LOADED = re.compile(r"^perdure_app\d+_")
_BELOW = ("cause", "via", "at", "code", "exception")  # shown below a line in a terminal


def set_up(config: Config, *, dev: bool, stream: TextIO | None = None) -> None:
    """Set up the log of this process as `config` says; `dev`: readable even if stderr is not a
    terminal, and without the steps of each partition's start.
    """
    stream = stream or sys.stderr
    pretty = config.log_format == "pretty" or (config.log_format == "auto" and (dev or stream.isatty()))
    scrubbed = Scrubber(config, _credentials).event
    known: list[Processor] = [
        structlog.contextvars.merge_contextvars,
        _of_turn,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        _plain_name,
        structlog.stdlib.PositionalArgumentsFormatter(),
        structlog.stdlib.ExtraAdder(),
        structlog.processors.TimeStamper("%H:%M:%S" if pretty else "iso", utc=not pretty),
        structlog.processors.StackInfoRenderer(),
    ]
    shown: list[Processor]
    if pretty:
        shown = [_users_lines, scrubbed, partial(_for_people, _console(stream))]
    else:
        as_json = structlog.processors.JSONRenderer(ensure_ascii=False)
        shown = [structlog.processors.format_exc_info, scrubbed, as_json]
    handler = logging.StreamHandler(stream)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=known,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *shown],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(config.log_level.upper())
    few = dev and root.level > logging.DEBUG
    logging.getLogger(_PARTITIONS).setLevel(max(root.level, logging.WARNING) if few else logging.NOTSET)
    for name, level in _QUIET.items():
        logging.getLogger(name).setLevel(level)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *known,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        wrapper_class=structlog.stdlib.BoundLogger,
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def _of_turn(_: Any, __: str, event: EventDict) -> EventDict:
    """Add the fields of the turn in which a line is logged, unless the line has them."""
    running = current_turn.get()
    if isinstance(running, Turn):
        return {**event, **{name: value for name, value in turn_fields(running).items() if name not in event}}
    if isinstance(running, WorkerCaller) and "trace" not in event:
        event.update(of_trace(running.traceparent))
    return event


def _credentials() -> list[str]:
    """The credentials in the request that the Worker is answering, if this code runs in the Worker."""
    running = current_turn.get()
    return credentials_in(running.headers) if isinstance(running, WorkerCaller) else []


def _plain_name(_: Any, __: str, event: EventDict) -> EventDict:
    """Show an app's module under the name of its file (see api/loading.py)."""
    event["logger"] = _LOADED.sub("", event["logger"])
    return event


# In a terminal


def _console(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )


def _users_lines(logger: Any, name: str, event: EventDict) -> EventDict:
    """In place of a traceback, the fields of its error, if the user's code was running."""
    error = event.get("exc_info")
    if isinstance(error, tuple):
        error = error[1]
    elif error is True:
        error = sys.exc_info()[1]
    if isinstance(error, BaseException) and "at" in (fields := error_fields(error)):
        return {**{key: value for key, value in event.items() if key != "exc_info"}, **fields}
    return structlog.processors.format_exc_info(logger, name, event)


def _for_people(console: structlog.dev.ConsoleRenderer, logger: Any, name: str, event: EventDict) -> str:
    below = {key: event.pop(key) for key in _BELOW if event.get(key)}
    if "at" in below and "error" in event:
        below["error"] = event.pop("error")
    lines = [str(console(logger, name, event))]
    if error := below.get("error"):
        lines.append(f"    {error}")
    if cause := below.get("cause"):
        lines.append(f"    because of {cause}")
    lines += [f"    {place}" for place in below.get("via", ())]
    if place := below.get("at"):
        lines += [f"    {place}", f"        {below.get('code', '')}"]
    if exception := below.get("exception"):
        lines.append(str(exception))
    return "\n".join(lines)
