"""Log lines about partitions: each change of an owner's state is one line of the process's log.

    {"event": "a partition is lost to another node", "partition": 3, "node": …, "host": …, "pid": …, "offset":
    1422, "reason": …}

Laws
- `offset` is the owner's position in the journal; `reason` is why it does not serve.
- Normal steps of a start are `info`; the loss of a partition, and each claim after that, are a warning or an
  error. `perdure dev` shows only the latter. [test_logs.py]
"""

from __future__ import annotations

from typing import Protocol

import structlog

from perdure.streams.state.tables import Tables
from perdure.streams.turns.ports import OwnerState, Ports

_logger = structlog.get_logger(__name__)


class _Owner(Protocol):
    """An owner, with the attributes that a line names."""

    partition: int
    ports: Ports
    tables: Tables


def log_state(owner: _Owner, before: OwnerState, state: OwnerState, why: BaseException | None) -> None:
    """Log that an owner went from one state into another."""
    if state is OwnerState.SERVING:
        _say(owner, "info", "a partition is served", None)
    elif state is OwnerState.FENCED:
        _say(owner, "error", "a partition is lost to another node", why)
    elif state is OwnerState.STOPPED:
        _say(owner, "error", "a partition has stopped", why)
    elif state is OwnerState.ELSEWHERE:
        if before is OwnerState.SERVING:
            _say(owner, "info", "a partition is handed over", None)
    elif before is OwnerState.SERVING:
        _say(
            owner,
            "warning",
            "a partition is not served for now",
            why,
        )
    else:
        _say(owner, "info", "a partition begins", why)


def log_attempt(owner: _Owner, attempts: int, why: BaseException) -> None:
    """Log that a partition was lost, or could not begin, and is claimed again after a pause."""
    _say(owner, "warning", "a partition is claimed again", why, attempts=attempts)


def _say(owner: _Owner, level: str, event: str, why: BaseException | None, **more: int) -> None:
    me = owner.ports.identity
    said: dict[str, object] = {"partition": owner.partition, "offset": owner.tables.reader.offset, **more}
    if why is not None:
        said["reason"] = str(why) or repr(why)
    getattr(_logger, level)(event, node=me.node, host=me.host, pid=me.pid, **said)
