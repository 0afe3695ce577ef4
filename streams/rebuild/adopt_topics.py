"""`perdure state adopt`: accept the existing topics as those of the app, whatever its journal says.

For topics that were restored from a backup, or lost for good and created again empty. Each claim in a journal
names the ids of the topics that it belongs with; `adopt` appends a claim to each partition that names today's
ids, and a mark that its journal ends there (journal/end_marks.py). A running node is fenced by it. Other
inconsistencies (state ahead of the log, missing commands) are refused as without it. [test_topics.py]
"""

from __future__ import annotations

from os import getpid
from socket import gethostname
from typing import Any

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError
from perdure.schemas.journal import Claim
from perdure.streams.journal.bootstrap import append_one, bootstrap_log
from perdure.streams.journal.end_marks import append_mark
from perdure.streams.opening import new_uuid, open_data, start_log
from perdure.streams.snapshots.trimmed import vouch_by
from perdure.streams.store.rocks import RocksStore


async def adopt(config: Config) -> dict[str, Any]:
    """Append the claims; returns the number of partitions and the topics' ids.

    Raises `ConfigError` for a log whose topics have no ids.
    """
    data = open_data(config)
    try:
        log = await start_log(config, data, "adopt")
        try:
            if log.exclusive:
                raise ConfigError(f"{config.log}: its topics have no ids, so there is nothing to adopt")
            store = RocksStore(data.state_path)
            try:
                vouch = vouch_by(config, log, data, store)
                await bootstrap_log(log, config.name, data.app_uuid, vouch)
            finally:
                store.close()
            for partition in range(log.partitions):
                claim = Claim(new_uuid(), "adopt", gethostname(), getpid(), None, dict(log.topic_ids))
                offset = await append_one(log, partition, claim)
                append_mark(log, partition, offset + 1, adopted=True)
            return {"partitions": log.partitions, "topics": dict(log.topic_ids)}
        finally:
            await log.close()
    finally:
        data.close()
