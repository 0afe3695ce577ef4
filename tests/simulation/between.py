"""What went from one object to another, and to sockets: each once, in order, and of turns that stand.

A call stands even if its caller fails later; sends and frames belong to the turn.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from perdure.schemas.alarms import TTL
from perdure.schemas.calls import NOWHERE, PRINCIPAL, SEND_KEY, CallKey, Root, call_key, root_of
from perdure.schemas.commands import ALARM, CALL, Command
from perdure.schemas.errors import BadReply, Deadlock, FailedInside, HandlerFailed, NonDeterministic
from perdure.schemas.journal import Entry
from perdure.schemas.keys import partition_of
from perdure.schemas.replies import UNAVAILABLE
from perdure.schemas.sockets import CLOSE, FRAME_KIND, parse_frame
from perdure.streams.log.base import Topic
from tests.simulation.oracle import Place, withdrawn
from tests.simulation.sample import ALARM as ALARM_TAG
from tests.simulation.sample import CRON, ONCE, PAID

if TYPE_CHECKING:
    from tests.simulation.checker import Auditor
    from tests.simulation.oracle import Model
    from tests.simulation.world import Run

Commands = dict[Place, Command]
# codes of runs of alarms that are over; others were not done
_FAILURES = (HandlerFailed.code, Deadlock.code, NonDeterministic.code, FailedInside.code, BadReply.code)


def check_calls_and_sends(run: Run, commands: Commands, models: dict[str, Model]) -> None:
    """One effect for each key; both of each turn that stands; none that no turn made; sums that agree."""
    entries, counts = run.auditor.entries, run.counts
    causes: dict[Root, list[Place]] = {}
    for place, command in commands.items():
        causes.setdefault(root_of(command, *place), []).append(place)
        causes.setdefault(Root(*place), [place])  # of its sends
    taken: dict[CallKey, Entry] = {}
    copies: Counter[CallKey] = Counter()
    for place, command in commands.items():
        if command.kind != CALL:
            continue
        key = call_key(command.principal, command.client_key or "")
        assert key is not None, f"{command.key} was called at {place} by nobody: {command}"
        copies[key] += 1
        entry = entries.get(place)
        if entry is not None and entry.outcome == UNAVAILABLE:
            counts["calls that are to go on"] += 1
        elif entry is not None:
            counts["calls withdrawn"] += withdrawn(entry)
            again = key in taken and (key.partition != NOWHERE or run.ms_per_s == 1000)
            assert not again, f"I2: {key} took effect twice: {taken.get(key)}, {entry}"
            taken[key] = entry
        _check_cause(run, commands, causes, key, command)
    for key, times in copies.items():
        counts[f"{key.kind}s {'again' if times > 1 else 'on the log'}"] += 1
    effects: dict[Root, list[tuple[CallKey, Entry]]] = {}
    for key, entry in taken.items():
        effects.setdefault(key.root, []).append((key, entry))
    stands: Counter[str] = Counter()
    for place, entry in entries.items():
        op = _op(commands[place])
        if op in ("call", "send") and entry.outcome == "ok":
            stands[op] += 1
            root = Root(*place) if op == "send" else root_of(commands[place], *place)
            _check_effects(op, place, entry, effects.get(root, []))
    for key in taken:
        callers = [entries.get(place) for place in causes[key.root]]
        if not any(caller is not None and caller.outcome == "ok" for caller in callers):
            counts["calls that stand though their caller failed"] += 1
            assert key.kind != SEND_KEY, f"I5: {key} is of a turn that was rolled back, and took effect"
    counts["calls ok"] += stands["call"]
    counts["sends ok"] += stands["send"]
    notes, credits = (
        sum(model.state.get(name, 0) for model in models.values()) for name in ("notes", "credits")
    )
    assert notes == 2 * stands["send"], f"I2: {notes} sends took effect, of {stands['send']} turns"
    assert credits >= 2 * stands["call"], f"I1: {credits} calls took effect, of {stands['call']} turns"
    if run.ms_per_s == 1000:  # else keys are forgotten
        _check_paid(run, commands, models)
    _check_order(run.auditor)


def _op(command: Command) -> str:
    return command.path.split("/")[1] if command.path.startswith("/") else ""


def _check_paid(run: Run, commands: Commands, models: dict[str, Model]) -> None:
    """What a turn pays it pays once, however often it runs or is repeated under its
    key; if it stands, all of it.
    """
    paid = Counter(
        {
            name.removeprefix(PAID): times
            for model in models.values()
            for name, times in model.state.items()
            if name.startswith(PAID)
        }
    )
    afresh = _begun_afresh(run, commands)
    twice = {
        tag: times
        for tag, times in paid.items()
        if times > 1 + afresh[tag.removeprefix(ALARM_TAG).rpartition(".")[0]]
    }
    assert not twice, f"I2: paid more than once: {twice}"
    run.counts["paid by alarms"] += sum(tag.startswith(ALARM_TAG) for tag in paid)
    for place, entry in run.auditor.entries.items():
        op = _op(commands[place])
        if op not in ONCE or entry.outcome == UNAVAILABLE:
            continue
        mark = commands[place].path.split("/")[2]
        got = {tag.removeprefix(f"{mark}.") for tag in paid if tag.startswith(f"{mark}.")}
        run.counts[f"{op} {entry.outcome}"] += 1
        if entry.reply.error is not None and entry.reply.error.code == NonDeterministic.code:
            run.counts[f"{op} told that it ran differently"] += 1
        elif op == "spread" and entry.outcome == "ok":
            assert got == {"a1", "a2", "b", "c"}, f"I1: the turn of {place} stands, it paid {got}"
        elif op == "fickle" and entry.outcome == "ok" and mark not in run.not_compared:
            said = json.loads(entry.reply.body).removeprefix(f"{mark}.")
            got -= _landed_late(run, commands, mark) - {said}
            assert got == {said}, f"I2: the turn of {place} says it paid {said}, and it paid {got}"


def _landed_late(run: Run, commands: Commands, mark: str) -> set[str]:
    """What the turn of an earlier owner paid by records that landed when a later
    owner had begun: nobody could know.
    """
    ends = run.compared.get(mark, {})
    found = set()
    for (partition, offset), command in commands.items():
        if command.kind == CALL and command.method == "pay" and offset >= ends.get(partition, offset + 1):
            tag = json.loads(command.body)["args"][0]
            if tag.startswith(f"{mark}."):
                found.add(tag.removeprefix(f"{mark}."))
                run.counts["fickle calls that landed late"] += 1
    return found


def _begun_afresh(run: Run, commands: Commands) -> Counter[str]:
    """How often an alarm made its calls anew, by object and number of the ring:
    after runs that failed, or set again.
    """
    afresh: Counter[str] = Counter()
    rings: Counter[str] = Counter()
    goes_on: set[str] = set()
    for partition, entry, _ in run.auditor.order:
        command = commands.get((partition, entry.command))
        if command is None or not any(change.name not in (TTL, CRON) for change in entry.alarms):
            continue
        key, failure = entry.key, entry.reply.error
        if command.kind == ALARM and failure is None:
            if entry.alarms[0].due_ms is None:  # else it was only timed again
                rings[key] += 1
                goes_on.discard(key)
        elif failure is not None and failure.code not in _FAILURES:
            goes_on.add(key)
            run.counts["runs of alarms that are to go on"] += 1
        elif failure is not None or key in goes_on:
            afresh[f"{key}.{rings[key] + 1}"] += 1
            goes_on.discard(key)
    return afresh


def _check_cause(
    run: Run, commands: Commands, causes: dict[Root, list[Place]], key: CallKey, command: Command
) -> None:
    """It was asked for by a command that its key names."""
    assert key.root in causes, f"I7: {key} was let out before its turn's command was durable"
    for place in causes[key.root]:
        cause = commands[place]
        assert command.principal == PRINCIPAL + cause.key, f"{key} is of {cause.key}, not {command.principal}"
        op = _op(cause)
        if cause.kind in (CALL, ALARM) or op in ONCE:
            continue
        other = cause.path.split("/")[3]
        assert command.key == f"Sample/{other}", f"{key} reached {command.key}, {other} was meant"
        assert (op, key.n in (1, 2)) == (key.kind, True), f"{key} was made by {op}"
    if key.kind == SEND_KEY:
        sender = run.auditor.entries.get((key.partition, key.offset))
        assert sender is not None, f"I7: {key} left, and its turn left no entry"
        assert sender.outcome == "ok", f"I5: {key} left, and its turn {sender.outcome}"


def _check_effects(op: str, place: Place, entry: Entry, effects: list[tuple[CallKey, Entry]]) -> None:
    made = [each for key, each in sorted(effects, key=lambda pair: pair[0].n) if key.kind == op]
    assert [each.outcome for each in made] == ["ok", "ok"], (
        f"I1: the turn of {place} stands, its {op}s came to {made}"
    )
    if op == "call":
        told = [json.loads(each.reply.body)["result"] for each in made]
        said = json.loads(entry.reply.body)
        assert said == told, f"I3: the turn of {place} was told {said}, its calls say {told}"


def _check_order(auditor: Auditor) -> None:
    last: dict[tuple[str, str], tuple[int, int]] = {}
    for _, entry, _ in auditor.order:
        key = call_key(entry.principal, entry.client_key or "")
        if key is None or key.kind != SEND_KEY:
            continue
        pair = entry.principal, entry.key
        assert (key.offset, key.n) > last.get(pair, (-1, 0)), f"I3: {key} overtook one from {pair}"
        last[pair] = key.offset, key.n


def frames_of(auditor: Auditor) -> dict[tuple[bytes | None, int], list[tuple[int, str]]]:
    """(gateway, number of socket) -> the frames that were let out for it:
    (position, what), in journal order.
    """
    found: dict[tuple[bytes | None, int], list[tuple[int, str]]] = {}
    for _, entry, at in auditor.order:
        for n, out in enumerate(entry.outbox, 1):
            if out.topic != Topic.REPLIES:
                continue
            frame = parse_frame(out.value, out.headers)
            said = frame.data.decode()
            told = f"{frame.code} {said}" if frame.type == CLOSE else said
            for number in frame.sockets:
                found.setdefault((out.key, number), []).append((at << 20 | n, told))
    return found


def check_frames(run: Run, *, whole: bool) -> None:
    """What each socket was sent is what was let out for it, from the first on; all
    of it if it lives (`whole`).
    """
    frames = frames_of(run.auditor)
    for wire in run.wires:
        due = frames.get((wire.gateway.encode(), wire.number), [])
        got = wire.got
        assert got == due[: len(got)], f"I3: {wire.key} {wire.id} was sent {got}, let out was {due}"
        if whole and wire.node.alive and wire.joined and not wire.gone:
            run.counts["sockets that were sent all"] += 1
            assert len(got) == len(due), f"I1: {wire.key} {wire.id} was sent {got}, let out was {due}"
        if not whole:
            run.counts["frames"] += len(got)


def check_frame_records(run: Run) -> None:
    """A frame on the log bears the name of its entry and its number there, however
    often it was let out (I5, I7).
    """
    seen: Counter[bytes] = Counter()
    for partition in range(run.broker.partitions):
        for record in run.broker.streams[Topic.REPLIES, partition].records:
            if not record.headers or record.headers[0] != FRAME_KIND:
                continue
            named = dict(record.headers)
            place, _, n = named["message-id"].decode().partition("/")
            home = partition_of(named["object"].decode(), run.broker.partitions)
            from_partition, _, at = place.partition(":")
            entry = run.auditor.at.get((home, int(at)))
            assert int(from_partition) == home, f"a frame of {named} is called {place}"
            assert entry is not None, f"I7: the frame {place}/{n} is of no entry that counts"
            assert 0 < int(n) <= len(entry.outbox), f"I5: the entry of the frame {place}/{n} lets out no such"
            out: Any = entry.outbox[int(n) - 1]
            assert (out.key, out.value) == (record.key, record.value), (
                f"I5: the frame {place}/{n} is not {out}"
            )
            seen[named["message-id"]] += 1
    run.counts["frames let out again"] += sum(times > 1 for times in seen.values())
