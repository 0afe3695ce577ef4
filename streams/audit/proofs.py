"""Roots and proofs of an app's log: `perdure log root`, `prove` and `check` stand on these functions.

Law: a journal that was trimmed has no root any more, and that is said. [test_merkle.py]
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

from perdure.schemas.errors import LogCorrupt, MalformedCommand
from perdure.schemas.journal import Header, decode_record
from perdure.streams.audit.checkpoints import Checkpoint, JournalRoot
from perdure.streams.audit.merkle import (
    Tree,
    leaf_hash,
    proves_consistency,
    proves_inclusion,
    record_leaf,
)
from perdure.streams.log.base import LogRecord, Progress, Readable, Topic, silent


async def tree_of(
    log: Readable, partition: int, size: int | None = None, progress: Progress = silent
) -> Tree:
    """The Merkle tree over a journal's first `size` records; None: all that are durable.

    log, partition: what is read.
    size: how many records.
    progress: of the reading.

    Raises `MalformedCommand` if it was trimmed, or has fewer.
    """
    start, end = await log.bounds(Topic.JOURNAL, partition)
    if start > 0:
        raise MalformedCommand(
            f"the journal of partition {partition} was trimmed and begins at offset {start}: it has no root any more. "
            "Checkpoints need keep_journal = forever"
        )
    size = end if size is None else size
    if size > end:
        raise LogCorrupt(
            f"the journal of partition {partition} has {end} records, {size} were there before: some are missing"
        )
    tree = Tree()
    async for chunk in log.read(Topic.JOURNAL, partition, 0, size):
        for each in chunk:
            tree.append(leaf_hash(record_leaf(each)))
        progress(partition, tree.size, size)
    return tree


async def checkpoint_of(log: Readable, now_ms: int, progress: Progress = silent) -> Checkpoint:
    """The roots of all journals of an app as they are now, not signed. Raises as `tree_of`."""
    header = decode_record((await _record(log, 0, 0)).value)
    assert isinstance(header, Header)  # it is at offset 0 of every journal
    roots = []
    for partition in range(log.partitions):
        tree = await tree_of(log, partition, None, progress)
        roots.append(JournalRoot(partition, tree.size, tree.root().hex()))
    return Checkpoint(header.app, header.app_uuid, now_ms, tuple(roots))


async def _record(log: Readable, partition: int, offset: int) -> LogRecord:
    start, end = await log.bounds(Topic.JOURNAL, partition)
    if not start <= offset < end:
        raise MalformedCommand(f"the journal of partition {partition} has no record at offset {offset}")
    async for chunk in log.read(Topic.JOURNAL, partition, offset, offset + 1):
        return chunk[0]
    raise LogCorrupt(f"the journal of partition {partition} has no record at offset {offset}")


async def prove_record(log: Readable, partition: int, offset: int, size: int | None) -> dict[str, Any]:
    """A proof that a record of a journal is in the tree of its first `size` records, as types of JSON.

    log, partition: what is read.
    offset: of the record.
    size: that of the checkpoint; None: all that are durable.
    """
    record = await _record(log, partition, offset)
    tree = await tree_of(log, partition, size)
    if offset >= tree.size:
        raise MalformedCommand(f"offset {offset} lies behind the {tree.size} records of the tree")
    return {
        "partition": partition,
        "index": offset,
        "size": tree.size,
        "leaf": b64encode(record_leaf(record)).decode(),
        "hashes": [each.hex() for each in tree.inclusion(offset)],
        "root": tree.root().hex(),
    }


def check_record(checkpoint: Checkpoint, proof: dict[str, Any]) -> None:
    """Check that a proof leads to the root in a checkpoint. Raises `LogCorrupt`."""
    try:
        root = next(each for each in checkpoint.journals if each.partition == proof["partition"])
        hashes = [bytes.fromhex(each) for each in proof["hashes"]]
        leaf, index, size = b64decode(proof["leaf"], validate=True), proof["index"], proof["size"]
    except (KeyError, TypeError, ValueError, StopIteration) as error:
        raise LogCorrupt(f"this is not a proof of a record of the checkpoint: {error!r}") from None
    if size != root.size:
        raise LogCorrupt(f"the proof is for a journal of {size} records, the checkpoint has {root.size}")
    if not proves_inclusion(leaf_hash(leaf), index, size, hashes, bytes.fromhex(root.root)):
        raise LogCorrupt(f"the record at offset {index} is not in the journal of the checkpoint")


async def check_log(log: Readable, earlier: Checkpoint, progress: Progress = silent) -> dict[str, Any]:
    """Check that a log only grew since a checkpoint. Raises `LogCorrupt` naming the partition.

    Returns for each partition its size and root now, and the consistency proof, for those without the log.
    """
    grown = []
    for root in earlier.journals:
        if root.partition >= log.partitions:
            raise LogCorrupt(f"partition {root.partition} of the checkpoint is not there any more")
        tree = await tree_of(log, root.partition, None, progress)
        then = bytes.fromhex(root.root)
        if tree.size < root.size or tree.root(root.size) != then:
            raise LogCorrupt(
                f"the journal of partition {root.partition} is not the one of the checkpoint: a record among its first "
                f"{root.size} was changed, removed or inserted. `perdure verify` names it"
            )
        proof = tree.consistency(root.size)
        assert proves_consistency(root.size, then, tree.size, tree.root(), proof)
        grown.append(
            {
                "partition": root.partition,
                "from": root.size,
                "size": tree.size,
                "root": tree.root().hex(),
                "hashes": [each.hex() for each in proof],
            }
        )
    return {"journals": grown}
