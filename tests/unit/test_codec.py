"""What is sent arrives as it was sent: each type of the guide, as argument and
result, on every way there is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from enum import Enum, IntEnum, StrEnum
from typing import Annotated, Any, Generic, Literal, NamedTuple, NotRequired, Optional, TypeVar, Union, Unpack
from uuid import UUID

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field
from typing_extensions import TypedDict

from perdure.api.client.answers import RawResponse, result_of
from perdure.api.client.requests import Options, call_request
from perdure.api.door.http import _call_of
from perdure.objects import wire
from perdure.objects.codec import Codec, Unfit
from perdure.objects.durable import DurableObject, Env
from perdure.objects.http import Headers
from perdure.objects.overlay import Overlay
from perdure.objects.registry import ObjectType
from perdure.objects.rpc import methods_of
from perdure.objects.stubs import call_of
from perdure.objects.turn import conclude, handling
from perdure.schemas.commands import CALL, Command, command_record, parse_call, parse_command
from perdure.schemas.errors import InvalidArguments, PerdureError
from perdure.testing import story, world

NAN, INF = float("nan"), float("inf")
T = TypeVar("T")


class Colour(Enum):
    RED = "red"
    BLUE = "blue"


class Level(IntEnum):
    LOW = 1
    HIGH = 2


class Word(StrEnum):
    YES = "yes"
    NO = "no"


class Inner(BaseModel):
    raw: bytes = b""
    weight: float = 0.0


class Order(BaseModel):
    article: str
    raw: bytes
    price: Decimal
    weight: float
    at: datetime | None = None
    tags: set[str] = Field(default_factory=set)
    inner: list[Inner] = []
    loose: Any = None


class Boxed(BaseModel, Generic[T]):
    content: T


@dataclass
class Lot:
    title: str
    raw: bytes
    ends: datetime
    bids: dict[str, Decimal] = field(default_factory=dict)
    best: Point | None = None


class Point(NamedTuple):
    x: int
    raw: bytes


class Move(TypedDict):
    raw: bytes
    at: NotRequired[date]


class Leaf(msgspec.Struct):
    raw: bytes
    weight: float
    at: datetime
    members: set[str] = set()
    below: Leaf | None = None


aware = st.datetimes(
    timezones=st.just(UTC) | st.integers(-1000, 1000).map(lambda m: timezone(timedelta(minutes=m)))
)
texts = st.text(st.characters(exclude_categories=("Cs",)))
decimals = st.decimals(allow_nan=False, allow_infinity=False)
inners = st.builds(Inner, raw=st.binary(), weight=st.floats())
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)
orders = st.builds(
    Order,
    article=texts,
    raw=st.binary(),
    price=decimals,
    weight=st.floats(),
    at=st.none() | aware | st.datetimes(),
    tags=st.sets(texts, max_size=4),
    inner=st.lists(inners, max_size=2),
    loose=json_values,
)
points = st.builds(Point, st.integers(), st.binary())
lots = st.builds(
    Lot, texts, st.binary(), aware, st.dictionaries(texts, decimals, max_size=3), st.none() | points
)
leaves = st.builds(
    Leaf,
    st.binary(),
    st.floats(),
    aware,
    st.sets(texts, max_size=4),
    st.none() | st.builds(Leaf, st.binary(), st.floats(), aware),
)
moves = st.fixed_dictionaries({"raw": st.binary()}, optional={"at": st.dates()})

TYPES: dict[str, tuple[Any, st.SearchStrategy[Any], list[Any]]] = {
    # name: the annotation, its values, and those of them that most easily get lost
    "none": (None, st.none(), [None]),
    "bool": (bool, st.booleans(), [True, False]),
    "int": (int, st.integers(), [0, -1, 2**63, 2**64, -(2**200)]),
    "float": (float, st.floats(), [NAN, INF, -INF, -0.0, 5e-324, 1.7976931348623157e308]),
    "text": (str, texts, ["", "NaN", "é🚀\x00", "YWJj"]),
    "bytes": (bytes, st.binary(), [b"", b"hello", b"\xff\x00", b"\xfb\xff\xfe"]),
    "decimal": (Decimal, decimals, [Decimal("1.10"), Decimal("1E+500"), Decimal("-0")]),
    "uuid": (UUID, st.uuids(), [UUID(int=0)]),
    "datetime": (datetime, st.datetimes() | aware, [datetime.min, datetime.max, datetime(2026, 1, 1, tzinfo=UTC)]),
    "date": (date, st.dates(), [date.min, date.max]),
    "time": (time, st.times(), [time(1, 2, 3, 4), time(1, tzinfo=UTC)]),
    "timedelta": (timedelta, st.timedeltas(), [timedelta.min, timedelta.max, timedelta(microseconds=-1)]),
    "enum": (Colour, st.sampled_from(Colour), [Colour.RED]),
    "int_enum": (Level, st.sampled_from(Level), [Level.HIGH]),
    "str_enum": (Word, st.sampled_from(Word), [Word.NO]),
    "literal": (Literal["a", 1, Colour.RED], st.sampled_from(["a", 1, Colour.RED]), ["a", 1, Colour.RED]),
    "list": (list[bytes], st.lists(st.binary()), [[b"\xff"], []]),
    "tuple": (tuple[int, bytes], st.tuples(st.integers(), st.binary()), [(1, b"\xff")]),
    "row": (tuple[float, ...], st.lists(st.floats()).map(tuple), [(NAN, 1.0), ()]),
    "set": (set[int], st.sets(st.integers()), [{3, 1, 2}, set()]),
    "frozenset": (frozenset[bytes], st.frozensets(st.binary()), [frozenset((b"b", b"a"))]),
    "dict": (dict[str, float], st.dictionaries(texts, st.floats()), [{"b": NAN, "a": 1.0}]),
    "by_int": (dict[int, bytes], st.dictionaries(st.integers(), st.binary()), [{1: b"\xff", -1: b""}]),
    "by_date": (dict[date, set[int]], st.dictionaries(st.dates(), st.sets(st.integers())), [{date.min: {2, 1}}]),
    "optional": (Optional[bytes], st.none() | st.binary(), [None, b"\xff"]),  # noqa: UP045 - the other spelling
    "maybe": (float | None, st.none() | st.floats(), [None, NAN, INF]),
    "union": (Union[int, str, list[bytes]], st.integers() | texts | st.lists(st.binary(), min_size=1), ["1", 1, [b"x"]]),  # noqa: UP007 - as above
    "model": (Order, orders, [Order(article="tea", raw=b"\xff", price=Decimal("1.10"), weight=NAN, tags={"b", "a"})]),
    "models": (dict[str, list[Order]], st.dictionaries(texts, st.lists(orders, max_size=2), max_size=2), [{}]),
    "generic": (Boxed[set[bytes]], st.sets(st.binary()).map(lambda each: Boxed[set[bytes]](content=each)), []),
    "dataclass": (Lot, lots, [Lot("a", b"\xff", datetime(2026, 1, 1, tzinfo=UTC), {"b": Decimal("1.10")}, Point(1, b"\xfe"))]),
    "named_tuple": (Point, points, [Point(2**70, b"\xff")]),
    "typed_dict": (Move, moves, [{"raw": b"\xff", "at": date.min}, {"raw": b""}]),
    "struct": (Leaf, leaves, [Leaf(b"\xff\xfe", NAN, datetime(2026, 1, 1, tzinfo=UTC), {"b", "a"})]),
    "structs": (list[Leaf | None], st.lists(st.none() | leaves, max_size=3), [[None]]),
    "deque": (deque[int], st.lists(st.integers()).map(deque), [deque((1, 2))]),
    "constrained": (Annotated[int, Field(gt=0)], st.integers(1), [1]),
    "anything": (Any, json_values, [None, {"a": [1, 1.5, "x"]}]),
}  # fmt: skip


def same(one: Any, other: Any) -> bool:
    """Equal and of the same type, to the last part; one NaN is as good as another."""
    if type(one) is not type(other):
        return False
    if isinstance(one, float):
        return repr(one) == repr(other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple | deque):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, BaseModel):
        return same(dict(one), dict(other))
    if is_dataclass(one):
        return all(same(getattr(one, each.name), getattr(other, each.name)) for each in fields(one))
    if isinstance(one, msgspec.Struct):
        return same(msgspec.structs.asdict(one), msgspec.structs.asdict(other))
    if isinstance(one, set | frozenset):
        return sorted(map(repr, one)) == sorted(map(repr, other))
    return bool(one == other)


SEEN: list[Any] = []


def an_echo(hint: Any) -> Any:
    async def echo(self: Any, value: Any) -> Any:
        SEEN.append(value)
        return value

    echo.__annotations__ = {"value": hint, "return": hint}
    return echo


Echo = type("Echo", (DurableObject,), {name: an_echo(hint) for name, (hint, _, _) in TYPES.items()})
METHODS = methods_of(Echo)
KIND = ObjectType("Echo", Echo)


class Asker(DurableObject):
    """Asks and tells Echo what the test has put into `env.VALUE`."""

    async def ask(self, name: str) -> None:
        SEEN.append(await getattr(self.env.Echo.get("a"), name)(self.env.VALUES[name]))

    async def tell(self, name: str) -> None:
        getattr(self.env.Echo.get("b").send, name)(value=self.env.VALUES[name])


def run(command: Command) -> bytes:
    """The reply to a call, from the record that carries it."""
    record = command_record(command)
    handler = handling(Echo(None, Env({})), KIND, parse_command(*record))
    try:
        handler.send(None)
    except StopIteration as done:
        return conclude(command, done.value, None, Overlay()).reply.body
    raise AssertionError("an echo waits for nothing")


@pytest.mark.parametrize("name", TYPES)
def test_what_is_sent_arrives_and_comes_back(name: str) -> None:
    """As an argument and as a result: from an object, over HTTP from a client that knows the class and from
    one that does not, and as a record."""
    hint, values, samples = TYPES[name]
    method = METHODS[name]

    @settings(max_examples=30, deadline=None)
    @given(values)
    def holds(value: Any) -> None:
        SEEN.clear()
        body = run(call_of("Echo/a", name, (value,), {}, methods=METHODS))
        SEEN.append(method.result(body))
        for known in (method, None):
            if known is None and name in ("union", "generic"):
                continue  # by name alone nobody can tell
            asked = call_request("Echo/a", name, (), {"value": value}, Options(1.0), known)
            body = run(Command("Echo/a", CALL, name, body=_call_of(name, asked.body)))
            SEEN.append(result_of(RawResponse(200, Headers(()), body), method))
        assert [each for each in SEEN if not same(each, value)] == [], (value, SEEN)

    holds()
    for each in samples:
        holds.hypothesis.inner_test(each)  # type: ignore[attr-defined]  # hypothesis' own way to the function
    assert Codec(hint).readable


def test_every_type_arrives_in_a_world() -> None:
    """From a test's stub, from an object that calls, and from one that sends."""

    @story
    async def told() -> None:
        for at in range(max(len(samples) for _, _, samples in TYPES.values())):
            now = {name: samples[at] for name, (_, _, samples) in TYPES.items() if at < len(samples)}
            async with world(Echo, Asker, vars={"VALUES": now}) as env:
                for name, value in now.items():
                    SEEN.clear()
                    SEEN.append(await getattr(env.Echo.get("x"), name)(value))
                    await env.Asker.get("x").ask(name)
                    await env.Asker.get("x").tell(name)
                    await env.advance(1)
                    assert len(SEEN) == 5, name
                    assert [each for each in SEEN if not same(each, value)] == [], (name, value)

    told()


class Dog(Inner):
    name: str = "rex"


REFUSED: list[tuple[Any, Any, str]] = [
    (int, None, "valid integer"),
    (int, "x", "valid integer"),
    (int, 10**5000, "4300 digits"),
    (str, "\ud800", "half a surrogate pair"),
    (str, b"x", "a bytes in it would arrive as something else"),
    (bytes, "hello", "valid base64"),
    (date, datetime(2026, 1, 1, 1), "date"),
    (datetime, datetime(2026, 1, 1, tzinfo=timezone(timedelta(seconds=5))), "would arrive as"),
    (Decimal, Decimal("NaN"), "finite number"),
    (Annotated[int, Field(gt=0)], 0, "greater than 0"),
    (Inner, Dog(), "would arrive as"),
    (Inner, {"raw": "x y"}, "raw.*base64"),
    (dict[tuple[int, int], int], {(1, 2): 3}, "valid array"),
    (float | str, NAN, "would arrive as str 'NaN'"),
    (bytes | str, "abc", "would arrive as bytes"),
    (Any, NAN, "no annotation says"),
    (Any, b"x", "no annotation says"),
    (Any, {"a": [INF]}, "no annotation says"),
    (Any, (1, 2), "no annotation says"),
    (Any, {1: 2}, "no annotation says"),
    (Any, date.min, "no annotation says"),
    (list[Any], [{1}], "no annotation says"),
    (Order, Order(article="a", raw=b"", price=Decimal(1), weight=1, loose=b"x"), "no annotation says"),
    (set[int], [1, "x"], "valid integer"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("hint", "value", "told"), REFUSED, ids=lambda each: str(each)[:40] if isinstance(each, str) else ""
)
def test_what_would_not_arrive_is_refused_before_it_is_sent(hint: Any, value: Any, told: str) -> None:
    """The error says why."""
    with pytest.raises(Unfit, match=told):
        Codec(hint).encode(value)


@pytest.mark.parametrize(
    ("hint", "given", "arrives"),
    [
        (Inner, {"raw": b"\xff"}, Inner(raw=b"\xff")),
        (Inner, {"raw": "_w==", "weight": "NaN"}, Inner(raw=b"\xff", weight=NAN)),
        (int, "2", 2),
        (float, 1, 1.0),
        (set[int], [2, 1], {1, 2}),
        (Sequence[int], (1, 2), [1, 2]),
        (bytes, "/+8=", b"\xff\xef"),
        (bytes, bytearray(b"\xff"), b"\xff"),
        (datetime, "2026-01-01T00:00:00Z", datetime(2026, 1, 1, tzinfo=UTC)),
    ],
    ids=str,
)  # fmt: skip
def test_what_fits_as_json_is_made_into_what_the_annotation_says(hint: Any, given: Any, arrives: Any) -> None:
    """A dict for a model, a text for a time: as over HTTP."""
    codec = Codec(hint)
    assert same(codec.decode(codec.encode(given)), arrives)


class Typed(DurableObject):
    async def add(self, amount: int, note: str = "", *, at: datetime | None = None) -> int:
        return amount

    async def weigh(self, kg: float | None) -> float | None:
        return kg

    async def loose(self, value: Any) -> Any:
        return value

    async def wrong(self, kind: str) -> int:
        return {"none": None, "text": "x", "digits": 10**5000}[kind]  # type: ignore[return-value]  # on purpose

    async def either(self) -> bytes | str:
        return "abc"

    async def model(self) -> Inner:
        return Dog()


class Extras(TypedDict):
    raw: bytes
    level: NotRequired[float]


class Wide(DurableObject):
    async def all(self, first: bytes, /, *rest: bytes, last: date = date.max, **more: set[int]) -> list[Any]:
        SEEN.append((first, rest, last, more))
        return [len(rest)]

    async def unpacked(self, **extras: Unpack[Extras]) -> None:
        SEEN.append(extras)


@story
async def test_arguments_of_every_kind_arrive() -> None:
    """By position only, the rest, by name only, further names, and those of a TypedDict."""
    async with world(Wide) as env:
        SEEN.clear()
        wide = env.Wide.get("a")
        await wide.all(b"\xff", b"\xfe", b"", last=date.min, one={2, 1}, two=set())
        await wide.all(b"\xff")
        await wide.unpacked(raw=b"\xff", level=NAN)
        await wide.unpacked(raw=b"")
        assert same(
            SEEN,
            [
                (b"\xff", (b"\xfe", b""), date.min, {"one": {1, 2}, "two": set()}),
                (b"\xff", (), date.max, {}),
                {"raw": b"\xff", "level": NAN},
                {"raw": b""},
            ],
        )
        for call, told in [
            (wide.all(), "argument first: Missing required argument"),
            (wide.all(b"", rest=[1, "x"]), "argument rest.1: .*valid integer"),
            (wide.unpacked(level=1.0), "argument raw: Missing required argument"),
            (wide.unpacked(raw=b"", more=1), "argument more: Unexpected keyword argument"),
        ]:
            with pytest.raises(InvalidArguments, match=told):
                await call


class Relay(DurableObject):
    async def calls(self, method: str, args: list[Any], kwargs: dict[str, Any]) -> str:
        try:
            await getattr(self.env.Typed.get("a"), method)(*args, **kwargs)
        except PerdureError as error:
            return f"{error.code}: {error}"
        return "answered"

    async def tells(self, method: str) -> None:
        getattr(self.env.Typed.get("a").send, method)()


@story
async def test_a_call_that_does_not_fit_names_method_argument_and_type_and_is_not_sent() -> None:
    """Missing, unknown, given twice, of the wrong type: in the caller's turn, as
    the other object would say it.
    """
    async with world(Typed, Relay) as env:
        relay = env.Relay.get("r")
        for args, kwargs, told in [
            ([], {}, "add(): argument amount: Missing required argument (amount: int)"),
            (["x"], {}, "add(): argument amount: Input should be a valid integer, unable to parse string as an integer (amount: int)"),
            ([1], {"amount": 2}, "add(): argument amount: Got multiple values for argument (amount: int)"),
            ([1], {"nope": 2}, "add(): argument nope: Unexpected keyword argument (it takes amount, note, at)"),
            ([1, "a", "b"], {}, "add(): argument 2: Unexpected positional argument (it takes amount, note, at)"),
            ([1], {"at": "soon"}, "add(): argument at: Input should be a valid datetime or date, input is too short (at: datetime | None)"),
        ]:  # fmt: skip
            assert await relay.calls("add", args, kwargs) == f"invalid-arguments: {told}"
            with pytest.raises(InvalidArguments) as caught:
                METHODS_OF_TYPED["add"].bind(args, kwargs)
            assert str(caught.value) == told
        assert "unknown-method: Typed has no method 'gone'" in await relay.calls("gone", [], {})
        with pytest.raises(PerdureError, match="Typed has no method 'gone'"):
            await relay.tells("gone")
        assert env.state(env.Typed.get("a")) == {}


METHODS_OF_TYPED = methods_of(Typed)


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (("wrong", "none"), "returned does not fit its annotation, int: Input should be a valid integer"),
        (("wrong", "text"), "returned does not fit its annotation, int: Input should be a valid integer"),
        (("wrong", "digits"), "4300 digits"),
        (("either",), "str 'abc' would arrive as bytes"),
        (("model",), "would arrive as"),
    ],
)
@story
async def test_a_result_that_would_not_arrive_fails_its_turn(call: tuple[str, ...], told: str) -> None:
    """Before anything is committed, and by name."""
    async with world(Typed) as env:
        with pytest.raises(PerdureError, match=told) as caught:
            await getattr(env.Typed.get("a"), call[0])(*call[1:])
        assert caught.value.code == "bad-reply"


@pytest.mark.parametrize(
    ("hint", "result", "json_"),
    [
        (dict, {"at": date.min, 1: (2,)}, {"at": "0001-01-01", "1": [2]}),
        (
            dict[str, Any],
            {"lot": Inner(raw=b"\xff"), "n": {1}},
            {"lot": {"raw": "_w==", "weight": 0.0}, "n": [1]},
        ),
        (list, (date.min,), ["0001-01-01"]),
        (Any, b"abc", "YWJj"),
        (object, [Leaf(b"", 1.5, datetime.min)], None),
        (dict[str, Any], Inner(), {"raw": "", "weight": 0.0}),
    ],
    ids=str,
)
def test_a_result_is_json_where_nothing_is_annotated(hint: Any, result: Any, json_: Any) -> None:
    """Times, models and bytes are written, whatever they hold; the caller gets JSON."""

    async def method(self: Any) -> Any: ...

    method.__annotations__["return"] = hint
    made = methods_of(type("Loose", (DurableObject,), {"method": method}))["method"]
    arrived = made.result(made.reply(result))
    assert json_ is None or arrived == json_


@pytest.mark.parametrize(
    ("text", "arrives"),
    [("1e999", INF), ("-1e999", -INF), ('"NaN"', NAN), ('"Infinity"', INF), ("null", None), ("1" * 400, INF)],
)
def test_a_number_beyond_every_float_arrives_where_a_float_is_annotated(text: str, arrives: Any) -> None:
    """It is no None and no error."""
    _, args, _ = parse_call(_call_of("weigh", b'{"args":[%b]}' % text.encode()))
    if text.isdigit():
        with pytest.raises(InvalidArguments):
            METHODS_OF_TYPED["weigh"].bind(args, {})
        return
    ((value,), _) = METHODS_OF_TYPED["weigh"].bind(args, {})
    assert same(value, arrives)


@pytest.mark.parametrize("text", ["1e999", "[-1e999]", '{"a": [1e999]}'])
def test_a_number_beyond_every_float_is_refused_where_nothing_is_annotated(text: str) -> None:
    """As infinity it could not be passed on."""
    _, args, _ = parse_call(_call_of("loose", b'{"args":[%b, "\\u00e9"]}' % text.encode()))
    with pytest.raises(InvalidArguments, match=r"loose\(\): argument value: .*too large for a float"):
        METHODS_OF_TYPED["loose"].bind(args[:1], {})


def test_what_was_written_before_is_read() -> None:
    """Commands with either alphabet of base64, and replies."""
    _, args, _ = parse_call(b'{"method":"bytes","args":["aGVsbG8="],"kwargs":{}}')
    assert METHODS["bytes"].bind(args, {})[0] == (b"hello",)
    assert METHODS["bytes"].bind(["+/8="], {})[0] == METHODS["bytes"].bind(["-_8="], {})[0]
    old = b'{"result":{"title":"a","raw":"","ends":"2026-01-01T00:00:00Z","bids":{"b":"1.10"},"best":null}}'
    assert METHODS["dataclass"].result(old).bids == {"b": Decimal("1.10")}
    assert METHODS["set"].result(b' { "result" : [2, 1] } ') == {1, 2}


_SEEDED = """
import msgspec
from dataclasses import dataclass
from perdure.objects.codec import Codec, by_name

class Leaf(msgspec.Struct):
    members: set[str]

@dataclass
class Lot:
    leaf: Leaf
    tags: frozenset[bytes]
    by_name: dict[str, set[str]]

words = set("qwertyuiop")
lot = Lot(Leaf(words), frozenset(each.encode() for each in words), {"b": words, "a": words})
print(Codec(set[str]).encode(words), Codec(Lot).encode(lot), by_name([words, lot]))
"""


def test_equal_arguments_are_equal_bytes_in_every_process() -> None:
    """Whatever the seed of hashes: what a call is known by is made of them."""
    texts = {
        subprocess.run(
            [sys.executable, "-c", _SEEDED],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert len(texts) == 1
    given = {"b": 1.0, "a": 2.0}
    assert b'{"b":1.0,"a":2.0}' in METHODS["dict"].encode((given,), {})


PLANTED: dict[str, tuple[str, Any, str]] = {
    # a rule of the wire that is left out -> a type that then does not arrive
    "bytes as UTF-8": ("WIRE", {**wire.WIRE, "ser_json_bytes": "utf8", "val_json_bytes": "utf8"}, "model"),
    "NaN as null": ("WIRE", {**wire.WIRE, "ser_json_inf_nan": "null"}, "model"),
    "sets as they come": ("_sorted", lambda value, write: write(value), "order"),
    "Structs as pydantic has them": ("struct_of", lambda node: None, "struct"),
}


@pytest.mark.parametrize("bug", PLANTED)
def test_each_rule_of_the_wire_is_needed(bug: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With a rule left out the checks above fail."""
    name, instead, kind = PLANTED[bug]
    monkeypatch.setattr(wire, name, instead)
    if kind == "order":
        words = frozenset(map(str, range(20)))
        assert json.loads(Codec(frozenset[str]).encode(words)) != sorted(words)
        return
    hint, _, (value, *_) = TYPES[kind]
    codec = Codec(hint)
    try:
        arrived = codec.decode(codec.encode(value))
    except Unfit:
        return
    assert not same(arrived, value)
