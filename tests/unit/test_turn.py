"""What a turn comes to, as a table: from what its handler returned or raised, and the overlay it left."""

from __future__ import annotations

import asyncio
from enum import StrEnum
from http import HTTPStatus
from typing import Any

import pytest

from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Response
from perdure.objects.overlay import Overlay, TurnLimits
from perdure.objects.registry import ObjectType
from perdure.objects.state import State
from perdure.objects.turn import Outcome, conclude, entry_failed, handling, not_done
from perdure.schemas.commands import CALL, FETCH, Command, call_body
from perdure.schemas.errors import (
    Deadlock,
    Expired,
    HandlerFailed,
    InvalidArguments,
    KeyConflict,
    KeyReused,
    Overloaded,
    PerdureError,
    Refusal,
    StorageFailed,
    TooLarge,
    TurnEnded,
    UnknownMethod,
    UnstorableValue,
)
from perdure.schemas.replies import FAILED, OK, REFUSED, REJECTED, UNAVAILABLE

CALLED = Command("Counter/a", CALL, "m")
FETCHED = Command("Counter/a", FETCH, "GET", "/")
KEYED = Command("Counter/a", CALL, "m", client_key="k")


def changed() -> Overlay:
    overlay = Overlay()
    overlay.changes["count"] = b"\x01"
    return overlay


def after_failure() -> Overlay:
    overlay = changed()
    overlay.failure = StorageFailed("the disk is gone")
    return overlay


def facts(outcome: Outcome) -> tuple[str, str, bool, bool, bool]:
    code = outcome.reply.error.code if outcome.reply.error else ""
    return outcome.reply.outcome, code, outcome.commit, outcome.entry, outcome.drop_instance


def of_call(error: PerdureError) -> PerdureError:
    """As it is raised in a caller for what another object answered."""
    error.of_call = True
    return error


# result or error, then: outcome, code, commit, entry, drop the instance
RAISED: list[tuple[BaseException, tuple[str, str, bool, bool, bool]]] = [
    (Refusal("no"), (REFUSED, "refused", False, True, False)),
    (Refusal("no", code="empty"), (REFUSED, "empty", False, True, False)),
    (InvalidArguments("by: not an int"), (REJECTED, "invalid-arguments", False, True, False)),
    (UnknownMethod("no method"), (REJECTED, "unknown-method", False, True, False)),
    (Expired("too late"), (UNAVAILABLE, "expired", False, False, True)),
    (ValueError("x"), (FAILED, "handler-failed", False, True, True)),
    (TooLarge("x"), (FAILED, "too-large", False, True, True)),
    (TurnEnded("x"), (FAILED, "turn-ended", False, True, True)),
    (UnstorableValue("x"), (FAILED, "unstorable-value", False, True, True)),
    (Overloaded("x"), (FAILED, "overloaded", False, True, True)),
    (of_call(Overloaded("x")), (UNAVAILABLE, "overloaded", False, False, True)),
    (of_call(InvalidArguments("x")), (FAILED, "invalid-arguments", False, True, True)),
    (SystemExit(3), (FAILED, "handler-failed", False, True, True)),
    (MemoryError(), (FAILED, "handler-failed", False, True, True)),
    (RecursionError("deep"), (FAILED, "handler-failed", False, True, True)),
    (asyncio.CancelledError(), (FAILED, "handler-failed", False, True, True)),
    (GeneratorExit(), (FAILED, "handler-failed", False, True, True)),
    (
        BaseExceptionGroup("two", [ValueError("x"), SystemExit(1)]),
        (FAILED, "handler-failed", False, True, True),
    ),
]


@pytest.mark.parametrize("command", [CALLED, FETCHED, KEYED], ids=["call", "fetch", "with a key"])
@pytest.mark.parametrize(("error", "expected"), RAISED, ids=lambda each: type(each).__name__)
def test_what_is_raised_rolls_back(
    error: BaseException, expected: tuple[str, str, bool, bool, bool], command: Command
) -> None:
    """Whatever was written: nothing is committed; a refusal and bad arguments keep the instance."""
    assert facts(conclude(command, None, error, changed())) == expected
    assert facts(conclude(command, None, error, Overlay())) == expected


def test_a_refusal_carries_its_detail() -> None:
    """Message, code and detail reach the caller as they were given."""
    reply = conclude(CALLED, None, Refusal("sold out", code="empty", detail={"left": 0}), changed()).reply
    assert reply.error is not None
    assert (reply.error.message, reply.error.detail) == ("sold out", {"left": 0})


def test_a_failure_names_the_object_and_what_was_raised_in_few_words() -> None:
    """And says that nothing was changed, however long the text of the exception."""
    error = conclude(CALLED, None, ValueError("x" * 10_000), changed()).reply.error
    assert error is not None
    assert error.message.startswith("Counter/a failed: ValueError: xxx")
    assert error.message.endswith("nothing was changed")
    assert len(error.message) < 700


def test_that_nothing_was_changed_is_said_once() -> None:
    """Also of a failure that came through several objects."""
    first = conclude(CALLED, None, Deadlock("b -> a -> b"), changed()).reply.error
    assert first is not None
    second = conclude(CALLED, None, HandlerFailed(first.message), changed()).reply.error
    assert second is not None
    assert second.message.endswith("Deadlock: b -> a -> b; nothing was changed")
    assert second.message.count("nothing was changed") == 1


def test_a_coroutine_for_an_answer_lacks_an_await() -> None:
    """The text says so, and what was to be awaited."""

    async def helper() -> int:
        return 1

    for command in (CALLED, Command("Counter/a", "fetch", "GET", "/")):
        error = conclude(command, helper(), None, Overlay()).reply.error
        assert error is not None
        assert error.code == "bad-reply"
        assert "an `await` is missing before test_a_coroutine" in error.message
        assert "helper(…)" in error.message


@pytest.mark.parametrize(
    ("command", "overlay", "commit_and_entry"),
    [
        (CALLED, Overlay(), (True, False)),
        (CALLED, changed(), (True, True)),
        (KEYED, Overlay(), (True, True)),
        (KEYED, changed(), (True, True)),
    ],
    ids=["a read", "a write", "a read with a key", "a write with a key"],
)
def test_success_commits_and_needs_an_entry_unless_it_left_no_trace(
    command: Command, overlay: Overlay, commit_and_entry: tuple[bool, bool]
) -> None:
    """Only a turn that changed nothing and spent no key is a mere `done`."""
    outcome = conclude(command, 5, None, overlay)
    assert (outcome.reply.outcome, outcome.reply.body) == (OK, b'{"result":5}')
    assert ((outcome.commit, outcome.entry), outcome.drop_instance) == (commit_and_entry, False)


def test_clearing_is_a_change() -> None:
    """`delete_all` alone needs an entry."""
    overlay = Overlay()
    overlay.cleared = True
    assert conclude(CALLED, None, None, overlay).entry


GOOD_RESPONSES = [
    (Response("é", 201), (201, "é".encode())),
    (Response(b"", 204), (204, b"")),
    (Response(None, 599), (599, b"")),
    (Response.json({"a": [1]}), (200, b'{"a":[1]}')),
    (Response("x", headers={"X-A": "ä"}), (200, b"x")),
    (Response("x", HTTPStatus.CREATED), (201, b"x")),
    (Response.json(1, HTTPStatus.IM_A_TEAPOT), (418, b"1")),
]


@pytest.mark.parametrize(("response", "expected"), GOOD_RESPONSES)
def test_a_response_is_answered_as_it_is(response: Response, expected: tuple[int, bytes]) -> None:
    """Status, headers and body, to the byte."""
    reply = conclude(FETCHED, response, None, Overlay()).reply
    assert (reply.outcome, reply.status, reply.body, reply.headers) == (OK, *expected, response.headers)
    assert type(reply.status) is int


class Reason(StrEnum):
    FULL = "full"


@pytest.mark.parametrize(
    ("code", "word"),
    [("full", "full"), (Reason.FULL, "full"), (HTTPStatus.NOT_FOUND, "not-found")],
)
def test_a_refusals_code_may_be_a_member_of_an_enum(code: Any, word: str) -> None:
    """Of a str one its value, of a status its name as a word; it travels as a plain str."""
    error = conclude(CALLED, None, Refusal("no", code=code), Overlay()).reply.error
    assert error is not None
    assert (error.code, type(error.code)) == (word, str)


BAD_RESULTS: list[tuple[Command, Any, str]] = [
    (FETCHED, None, "fetch returned NoneType"),
    (FETCHED, "text", "fetch returned str"),
    (FETCHED, {"status": 200}, "fetch returned dict"),
    (FETCHED, Response("x", 199), "the status 199"),
    (FETCHED, Response("x", 600), "the status 600"),
    (FETCHED, Response("x", True), "the status True"),
    (FETCHED, Response("x", "200"), "the status '200'"),  # type: ignore[arg-type]  # what a user may do
    (FETCHED, Response(["x"]), "the body of the response is list"),  # type: ignore[arg-type]  # as above
    (FETCHED, Response("x", headers={"": "1"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"a b": "1"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"a": "1\r\nb: 2"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"a": "語"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"ä": "1"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"a": 1}), "a header that cannot be sent"),  # type: ignore[dict-item]  # as above
    (FETCHED, Response("x", headers={"Content-Length": "1"}), "a header that cannot be sent"),
    (FETCHED, Response("x", headers={"transfer-encoding": "chunked"}), "a header that cannot be sent"),
    (CALLED, object(), "what m returned is not JSON"),
    (CALLED, {"a": {1, object()}}, "what m returned is not JSON"),
]


@pytest.mark.parametrize(("command", "result", "reason"), BAD_RESULTS, ids=[each[2] for each in BAD_RESULTS])
def test_a_result_that_cannot_be_a_reply_fails_the_turn(command: Command, result: Any, reason: str) -> None:
    """Rolled back, told what was wrong with it."""
    outcome = conclude(command, result, None, changed())
    assert facts(outcome) == (FAILED, "bad-reply", False, True, True)
    assert outcome.reply.error is not None
    assert reason in outcome.reply.error.message


@pytest.mark.parametrize(
    "error", [None, *(error for error, _ in RAISED)], ids=lambda each: type(each).__name__
)
def test_after_a_storage_failure_nothing_is_committed(error: BaseException | None) -> None:
    """Whatever the handler made of it; and no entry: the command was not done."""
    outcome = conclude(CALLED, 5, error, after_failure())
    assert (outcome.commit, outcome.entry, outcome.drop_instance) == (False, False, True)
    assert (outcome.reply.outcome == OK) == (error is None)
    if error is not None:
        assert outcome.reply.error is not None
        assert (outcome.reply.outcome, outcome.reply.error.code) == (UNAVAILABLE, "storage-failed")


@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        (Expired("late"), UNAVAILABLE),
        (Overloaded("full"), UNAVAILABLE),
        (KeyConflict("busy"), REJECTED),
        (KeyReused("other"), REJECTED),
    ],
)
def test_a_command_that_was_not_run_leaves_nothing_behind(error: PerdureError, outcome: str) -> None:
    """Nothing committed, no entry, the instance stays; its caller's mistake or not."""
    assert facts(not_done(error)) == (outcome, error.code, False, False, False)


def test_a_turn_too_large_for_the_journal_fails() -> None:
    """It becomes an entry that says so."""
    assert facts(entry_failed(CALLED, TooLarge("9 bytes"))) == (FAILED, "too-large", False, True, True)


class Counter(DurableObject):
    async def increment(self, by: int = 1) -> int:
        return by + 1


class _Nothing:
    def get(self, name: str) -> None:
        return None

    def scan(self, start: str, end: str | None, *, reverse: bool) -> Any:
        return iter(())


def test_arguments_are_validated_before_a_method_runs() -> None:
    """What fits is turned into what the annotations say."""
    kind = ObjectType("Counter", Counter)
    counter = Counter(State("Counter/a", _Nothing(), TurnLimits()), Env({}))
    command = Command("Counter/a", CALL, "increment", body=call_body("increment", ["41"], {}))

    assert asyncio.run(_awaited(handling(counter, kind, command))).body == b'{"result":42}'


def test_a_class_without_a_fetch_answers_404() -> None:
    """It says what it has instead."""
    kind = ObjectType("Counter", Counter)
    counter = Counter(State("Counter/a", _Nothing(), TurnLimits()), Env({}))
    response = asyncio.run(_awaited(handling(counter, kind, FETCHED)))
    assert (response.status, b"/rpc/" in response.body) == (404, True)


async def _awaited(coro: Any) -> Any:
    return await coro
