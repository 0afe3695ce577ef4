"""`perdure log key`, `root`, `prove` and `check`: signed checkpoints of journals, and proofs of records."""

from __future__ import annotations

import json
import time
from pathlib import Path
from typing import Annotated, Any

import typer

from perdure.api.cli.auditing import AuditSource
from perdure.api.cli.options import AlwaysJson, with_groups
from perdure.schemas.errors import ConfigError

KeyFile = Annotated[
    Path, typer.Option("--key", help="File of the Ed25519 key that signs; `perdure log key` makes one.")
]
CheckpointFile = Annotated[
    Path, typer.Argument(metavar="CHECKPOINT", help="File that `perdure log root` printed.")
]


def register(group: typer.Typer) -> None:
    """Add the commands to the group `perdure log`."""
    group.command(epilog="Example: `perdure log key audit.key`")(key)
    for command, example in (
        (root, "root --key audit.key --app app.py > checkpoint.json"),
        (prove, "prove 0:17 --app app.py > proof.json"),
        (check, "check checkpoint.json --app app.py"),
    ):
        group.command(epilog=f"Example: `perdure log {example}`")(with_groups(command))


def key(path: Annotated[Path, typer.Argument(metavar="FILE")], as_json: AlwaysJson = True) -> None:
    """Make a key that signs checkpoints, and print its public part, by which others know them."""
    from perdure.streams.audit.checkpoints import make_key

    _print({"public_key": make_key(path)})


def root(source: AuditSource, key: KeyFile, as_json: AlwaysJson = True) -> None:
    """Print a signed checkpoint: the size and the Merkle root of each journal. Keep it outside."""
    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.audit.checkpoints import encode_checkpoint, key_in, signed
    from perdure.streams.audit.proofs import checkpoint_of

    private = key_in(key)
    with progress_bar() as progress:
        made = source.read(lambda log: checkpoint_of(log.log, int(time.time() * 1000), progress))
    _print(json.loads(encode_checkpoint(signed(made, private))))


def prove(
    source: AuditSource,
    place: Annotated[str, typer.Argument(metavar="PARTITION:OFFSET", help="A record of the journal.")],
    size: Annotated[
        int | None, typer.Option("--size", min=1, help="The journal's size in the checkpoint. [default: now]")
    ] = None,
    as_json: AlwaysJson = True,
) -> None:
    """Print a proof that a record is in the journal of a checkpoint; it can be checked without the log."""
    from perdure.streams.audit.proofs import prove_record

    partition, _, offset = place.partition(":")
    if not (partition.isdecimal() and offset.isdecimal()):
        raise ConfigError(f"{place!r} is not the place of a record, such as 0:17")
    _print(source.read(lambda log: prove_record(log.log, int(partition), int(offset), size)))


def check(
    source: AuditSource,
    checkpoint: CheckpointFile,
    proof: Annotated[
        Path | None, typer.Option("--proof", help="Check this proof, not the log; no app is needed.")
    ] = None,
    trusted: Annotated[
        str, typer.Option("--public-key", help="The key that must have signed. [default: any]")
    ] = "",
    as_json: AlwaysJson = True,
) -> None:
    """Check that the log only grew since a checkpoint, or that a proof fits it; exit code 1 if not."""
    from perdure.api.telemetry.replay_progress import progress_bar
    from perdure.streams.audit.checkpoints import parse_checkpoint
    from perdure.streams.audit.proofs import check_log, check_record

    earlier = parse_checkpoint(_read(checkpoint), trusted)
    if proof is not None:
        try:
            given = json.loads(_read(proof))
        except ValueError as error:
            raise ConfigError(f"{proof} is not a proof: {error}") from None
        check_record(earlier, given)
        _print({"result": "OK", "offset": f"{given['partition']}:{given['index']}"})
        return
    with progress_bar() as progress:
        _print({"result": "OK", **source.read(lambda log: check_log(log.log, earlier, progress))})


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error}") from None


def _print(what: dict[str, Any]) -> None:
    typer.echo(json.dumps(what, indent=2))
