"""Errors of the operation: an operator must act. At start they end the process,
later they stop a partition.
"""

from __future__ import annotations

from perdure.schemas.errors.base import PerdureError


class OperatorError(PerdureError):
    """An operator must act. It ends the process at start, and a partition later. The root of the errors below
    it.

    Whose fault: that of the configuration, the machine or the log, as the text says.
    What to do: what the text says; docs/operations.md has a section for each.
    """

    code = "operator-error"


class ConfigError(OperatorError):
    """The configuration, the app's code or a topic's settings cannot be used. Raised at start, before any
    change.

    Whose fault: the operator's or the author's. The text names file and key, class, or topic and setting.
    What to do: correct what the text names. `perdure config show` prints what is in effect.
    """

    code = "config-error"


class DataDirError(OperatorError):
    """The data directory is in use, belongs to another app, or has a newer format. Raised at start.

    Whose fault: the operator's. The text says which of these it is, and which process has the directory.
    What to do: stop the other process, use another directory, or install the newer version.
    """

    code = "data-dir-error"


class LogCorrupt(OperatorError):
    """The log is damaged, was trimmed or recreated, or ends before the state does. perdure stops; it never
    skips.

    Whose fault: the disk's, a backup's, or that of an operation on the topics.
    What to do: follow "A corrupt log" in docs/operations.md; change nothing before.
    """

    code = "log-corrupt"


class StoreCorrupt(OperatorError):
    """A state file is damaged, or differs from a replay of the journal.

    Whose fault: the disk's, or perdure's; the journal is intact.
    What to do: stop the server, then `perdure state rebuild` makes the state again from the log.
    """

    code = "store-corrupt"


class SnapshotDamaged(OperatorError):
    """A snapshot cannot be used: it is damaged, incomplete, or of another app or journal.

    Whose fault: the disk's or the object store's, or the operator's, who named the place of another app.
    What to do: restore the snapshot that the text names, or name the right place in `[snapshots]`.
    """

    code = "snapshot-damaged"


class StorageFailed(OperatorError):
    """The disk refuses to read or write: it is full, or fails (HTTP 507). No turn commits after it.

    Whose fault: the disk's, or the operator's who gave it too little room.
    What to do: follow "A full or failing disk" in docs/operations.md. A handler lets it pass.
    """

    code = "storage-failed"


class LogUnreachable(OperatorError):
    """The Kafka brokers do not answer.

    Whose fault: the brokers', the network's, or the address is wrong.
    What to do: check the brokers and the address. perdure continues by itself once they answer.
    """

    code = "log-unreachable"


class PartitionBroken(OperatorError):
    """A fault of perdure's own stopped the partition. The other partitions go on.

    Whose fault: perdure's.
    What to do: report it, with the traceback on the server's stderr; a restart replays the journal.
    """

    code = "partition-broken"


class Fenced(OperatorError):
    """Another node claimed the partition, so this one must not write to it any more.

    Whose fault: none, if placement moved it. A node without placement: the operator's.
    What to do: nothing, if the nodes share the app; stop the node without placement, and restart this one.
    """

    code = "fenced"
    node = ""  # the name of the node that claimed it
