"""The process that answers one question for a node: `/admin/sql` starts it, so that no turn waits.

    python -m perdure.streams.sql.worker     reads its job on stdin and writes one message to stdout, as JSON

Law: it ends with the node that started it, and is killed after `TIMEOUT_S`. [test_sql.py]
"""

from __future__ import annotations

import asyncio
import sys
from asyncio.subprocess import PIPE
from pathlib import Path
from typing import Any

import msgspec

from perdure.schemas.config import Config
from perdure.schemas.errors import MalformedCommand, OperatorError, PerdureError
from perdure.schemas.kafka import Kafka
from perdure.streams.worker_process import begin_work, kill

# -P: what lies in the current directory is the user's
PROGRAM = (sys.executable, "-P", "-m", "perdure.streams.sql.worker")
TIMEOUT_S = 60.0
_LINE_BYTES = 256 << 20


class SqlJob(msgspec.Struct):
    """A question to an app: what names its log, and the arguments of `ask`."""

    name: str
    log: str
    data_dir: str
    partitions: int
    question: str
    at_ms: int | None
    limit: int
    kafka: dict[str, Any] = {}  # as `Kafka.revealed` has it: stdin is a pipe that no other process reads
    events: dict[str, Any] = {}

    @property
    def config(self) -> Config:
        """The part of the app's configuration that the question needs."""
        return Config(
            name=self.name,
            log=self.log,
            kafka=Kafka.from_revealed(self.kafka),
            data_dir=Path(self.data_dir),
            partitions=self.partitions,
            events=self.events,
        )


class SqlAnswer(msgspec.Struct):
    """The answer to a question; or, with `code`, the error."""

    columns: list[str] = []
    rows: list[list[Any]] = []
    cut: bool = False
    code: str = ""
    reason: str = ""


async def answered(config: Config, question: str, at_ms: int | None, limit: int) -> SqlAnswer:
    """Answer a question in a process of its own.

    config: the app's configuration.
    question, at_ms, limit: as `ask` has them.

    Raises `MalformedCommand` for the question, and `OperatorError` if it cannot be answered.
    """
    events = {kind: each.model_dump() for kind, each in config.events.items()}
    job = SqlJob(
        config.name, config.log, str(config.data_dir.absolute()), config.partitions, question, at_ms, limit
    )
    job.kafka, job.events = dict(config.kafka.revealed()), events
    process = await asyncio.create_subprocess_exec(*PROGRAM, stdin=PIPE, stdout=PIPE, limit=_LINE_BYTES)
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(msgspec.json.encode(job) + b"\n")
    try:
        async with asyncio.timeout(TIMEOUT_S):
            line = await process.stdout.readline()
    except TimeoutError:
        raise MalformedCommand(f"the question took longer than {TIMEOUT_S:.0f} s: ask for less") from None
    finally:
        kill(process)
        await process.wait()
    if not line:
        raise OperatorError("the process that answers questions ended: see the server's stderr")
    answer = msgspec.json.decode(line, type=SqlAnswer)
    if answer.code:
        kind = MalformedCommand if answer.code == MalformedCommand.code else OperatorError
        raise kind(answer.reason)
    return answer


def main() -> None:
    job, emit = begin_work(SqlJob)
    try:
        from perdure.streams.sql.query import ask  # an extra

        answer = asyncio.run(ask(job.config, job.question, at_ms=job.at_ms, limit=job.limit))
        emit(SqlAnswer(*answer))
    except PerdureError as error:
        emit(SqlAnswer(code=error.code, reason=str(error)))
    except ImportError as error:
        reason = f"questions need DuckDB and pyarrow, which are not installed ({error}): pip install 'duckdb>=1.4,<3' 'pyarrow>=18,<27'"
        emit(SqlAnswer(code=OperatorError.code, reason=reason))


if __name__ == "__main__":
    main()
