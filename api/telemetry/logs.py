"""The log of a process: one line of JSON per event, or for people in a terminal; always on stderr.

    {"event": "a handler failed", "object": "Counter/a", "offset": "3:17", "trace": "4bf9…", "level": "error", …}

Laws
- `structlog` and the standard library's `logging` come out alike, perdure's lines and the app's.
- A line that is logged while a turn runs says which object, where on the log, in which trace: the line asks the turn,
  a turn does nothing for it.
- No secret leaves in a line (see api/telemetry/redact.py).
- In a terminal an error shows the user's own lines, not perdure's.
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

# they tell of each request or connect, with its URL; what matters of it perdure tells itself
_QUIET = {"aiokafka": logging.CRITICAL, "httpx": logging.WARNING, "httpcore": logging.WARNING}
_QUIET |= {"urllib3": logging.WARNING, "asyncio": logging.WARNING, "websockets": logging.WARNING}
_LOADED = re.compile(r"^perdure_app\d+_")
_BELOW = ("cause", "via", "at", "code", "exception")  # shown under a line, for people


def set_up(config: Config, *, dev: bool, stream: TextIO | None = None) -> None:
    """From here on this process logs as `config` says. `dev`: for somebody who looks on."""
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
    """What the line concerns, if it does not say so itself: the turn in which it is logged."""
    running = current_turn.get()
    if isinstance(running, Turn):
        return {**event, **{name: value for name, value in turn_fields(running).items() if name not in event}}
    if isinstance(running, WorkerCaller) and "trace" not in event:
        event.update(of_trace(running.traceparent))
    return event


def _credentials() -> list[str]:
    """Those of the request that the Worker answers just now, if one of it is running."""
    running = current_turn.get()
    return credentials_in(running.headers) if isinstance(running, WorkerCaller) else []


def _plain_name(_: Any, __: str, event: EventDict) -> EventDict:
    """A module of the app by the name that its author gave it (see api/loading.py)."""
    event["logger"] = _LOADED.sub("", event["logger"])
    return event


# For people


def _console(stream: TextIO) -> structlog.dev.ConsoleRenderer:
    return structlog.dev.ConsoleRenderer(
        colors=stream.isatty(),
        pad_event_to=0,
        exception_formatter=structlog.dev.plain_traceback,
        sort_keys=False,
    )


def _users_lines(logger: Any, name: str, event: EventDict) -> EventDict:
    """In place of a traceback what `told` says of its error, if the user's code was running."""
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
