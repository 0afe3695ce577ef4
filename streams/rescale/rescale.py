"""`perdure rescale`: gives a stopped app another number of partitions.

Law: the switch is one atomic step, behind everything that it rests on. [test_rescale.py]
"""

from __future__ import annotations

from contextlib import AsyncExitStack
from time import perf_counter
from typing import Any

from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError
from perdure.streams import failpoints
from perdure.streams.datadir import app_in, is_data_dir, no_data_dir, remove_folder
from perdure.streams.log.base import Progress, Topic, silent
from perdure.streams.log.embedded.log import EmbeddedLog
from perdure.streams.opening import check_kafka_client, clock_ms, open_data, start_embedded
from perdure.streams.rescale.copying import checked, copy, folded, settled
from perdure.streams.store.rocks import RocksStore

MOST = 1024  # as of `partitions` in the configuration
_Findings = dict[str, Any]


async def rescale(config: Config, partitions: int, progress: Progress = silent) -> _Findings:
    """Give the app this number of partitions; it must be stopped. Its configuration may have either number.

    Returns counts (objects, client_keys, parked, entries), `from` and `partitions`, and where the old log is
    kept. Raises `ConfigError` or `DataDirError` if it cannot be done now, `StoreCorrupt` if the copy differs.
    """
    if not 0 < partitions <= MOST:
        raise ConfigError(f"--partitions {partitions} is not between 1 and {MOST}")
    began = perf_counter()
    if config.kafka_brokers:
        check_kafka_client(config)
        from perdure.streams.rescale.on_kafka import on_kafka

        findings = await on_kafka(config, partitions, progress)
    else:
        findings = await _embedded(config, partitions, progress)
    return {**findings, "partitions": partitions, "seconds": round(perf_counter() - began, 3)}


async def _embedded(config: Config, partitions: int, progress: Progress) -> _Findings:
    path = config.data_dir
    if not is_data_dir(path):
        raise no_data_dir(path)
    before = app_in(path).partitions
    _check_differs(before, partitions)
    old_config = config.model_copy(update={"partitions": before})
    async with AsyncExitStack() as opened:
        data = open_data(old_config, must_exist=True)
        opened.callback(data.close)
        if not data.has_log:
            raise ConfigError(f"{path} has no log yet: set partitions = {partitions} and start the app")
        log_path, state_path = data.of_next_generation()
        await remove_folder(log_path)  # of one that was interrupted
        await remove_folder(state_path)
        async with AsyncExitStack() as working:
            log = await start_embedded(old_config, data)
            working.push_async_callback(log.close)
            old, _ = await folded(log, old_config, data, working, progress)
            settled(old, [(await log.bounds(Topic.COMMANDS, each.partition)).end for each in old])
            new_log = EmbeddedLog(log_path, partitions, clock_ms=clock_ms)
            await new_log.start()
            working.push_async_callback(new_log.close)
            entries = await copy(old, new_log, config.name, data.app_uuid)
            store = RocksStore(state_path)
            working.callback(store.close)
            compared = await checked(old, new_log, store, progress)
        failpoints.hit("rescale.before_switch")
        kept, old_state = data.log_path, data.state_path
        data.switch(partitions)
        failpoints.hit("rescale.after_switch")
        data.poison_path.unlink(missing_ok=True)  # it names places in the old log
        await remove_folder(old_state)
    return {"from": before, **compared._asdict(), "entries": entries, "kept": str(kept)}


def _check_differs(before: int, partitions: int) -> None:
    if before == partitions:
        raise ConfigError(
            f"the app has {partitions} partitions already: set partitions = {partitions} and start it"
        )
