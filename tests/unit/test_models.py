"""`get(type=…)`: what is stored becomes a model, a dataclass, a Struct, or a text that says why not."""

from __future__ import annotations

import asyncio
import uuid
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from decimal import Decimal
from typing import Annotated, Any

import msgspec
import pytest
from annotated_types import Gt
from pydantic import BaseModel
from tests.unit.inturn import InTurn

from perdure.schemas.errors import ObjectError, UnfitValue, UnstorableValue

WHEN = datetime(2026, 1, 2, 3, 4, 5, 678, UTC)
ID = uuid.UUID(int=7)


class Model(BaseModel):
    name: str
    when: datetime = WHEN
    tags: set[str] = {"a"}
    price: Decimal = Decimal("1.50")
    id: uuid.UUID = ID
    data: bytes = b"\xff"
    more: dict[str, list[int]] = {"n": [1, 2]}
    pair: tuple[int, str] = (1, "x")


@dataclass
class Plain:
    name: str
    when: datetime = WHEN
    tags: set[str] = field(default_factory=lambda: {"a"})
    price: Decimal = Decimal("1.50")
    id: uuid.UUID = ID
    data: bytes = b"\xff"
    more: dict[str, list[int]] = field(default_factory=lambda: {"n": [1, 2]})
    pair: tuple[int, str] = (1, "x")


class Packed(msgspec.Struct):
    name: str
    when: datetime = WHEN
    tags: set[str] = msgspec.field(default_factory=lambda: {"a"})
    price: Decimal = Decimal("1.50")
    id: uuid.UUID = ID
    data: bytes = b"\xff"
    more: dict[str, list[int]] = msgspec.field(default_factory=lambda: {"n": [1, 2]})
    pair: tuple[int, str] = (1, "x")


MADE: list[tuple[Any, Any]] = [
    (Model(name="ann"), Model(name="ann").model_dump()),
    (Plain("ann"), asdict(Plain("ann"))),
    (Packed("ann"), msgspec.structs.asdict(Packed("ann"))),
]


@pytest.mark.parametrize(("made", "stored"), MADE, ids=["model", "dataclass", "Struct"])
def test_what_was_put_as_a_dict_comes_back_as_its_type(made: Any, stored: dict[str, Any]) -> None:
    """Every value type in it; of one name, of many, a default for what is not
    there; a new object each time.
    """

    async def main() -> None:
        with InTurn() as state:
            await state.put({"a": stored, "b": stored})
            assert await state.get("a", type=type(made)) == made
            assert await state.get(["b", "no", "a"], type=type(made)) == {"b": made, "a": made}
            assert await state.get("no", type=type(made)) is None
            assert await state.get("no", "default", type=type(made)) == "default"
            (await state.get("a", type=type(made))).more["n"].append(3)
            assert await state.get("a", type=type(made)) == made

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "stored", "expected"),
    [
        (int, 5, 5),
        (dict[str, int], {"a": 1}, {"a": 1}),
        (list[Model], [{"name": "x"}], [Model(name="x")]),
        (list[Packed], [{"name": "x"}], [Packed("x")]),
        (Packed | None, None, None),
        (int | None, None, None),
        (Annotated[int, Gt(4)], 5, 5),
        (Annotated[int, {"un": "hashable"}], 5, 5),
    ],
)
def test_any_type_that_pydantic_takes_will_do(kind: Any, stored: Any, expected: Any) -> None:
    """And what is made of Structs."""

    async def main() -> None:
        with InTurn() as state:
            await state.put("a", stored)
            assert await state.get("a", type=kind) == expected

    asyncio.run(main())


@pytest.mark.parametrize(
    ("kind", "stored", "told"),
    [
        (Model, {"name": 5}, "name: Input should be a valid string"),
        (Model, {}, "name: Field required"),
        (Model, None, "value: Input should be"),
        (Plain, {"name": "x", "more": {"n": ["x"]}}, r"more\.n\.0: Input should be a valid integer"),
        (Packed, {"name": 5}, r"Expected `str`, got `int` - at `\$\.name`"),
        (Packed, 5, "Expected `object`, got `int`"),
        (Annotated[int, Gt(4)], 4, "value: Input should be greater than 4"),
    ],
)
@pytest.mark.parametrize("many", [False, True])
def test_what_does_not_fit_is_told(kind: Any, stored: Any, told: str, many: bool) -> None:
    """Object, key, type and what is wrong; the value stays and can be read as it is."""

    async def main() -> None:
        with InTurn() as state:
            await state.put("user", stored)
            with pytest.raises(
                UnfitValue, match=rf"state\['user'\] of Counter/alice does not fit .*: .*{told}"
            ) as caught:
                await state.get(["user"] if many else "user", type=kind)  # type: ignore[call-overload]  # either
            assert kind is not Model or f"{Model.__module__}.Model" in str(caught.value)
            assert isinstance(caught.value, ValueError)
            assert await state.get("user") == stored

    asyncio.run(main())


@pytest.mark.parametrize("kind", [object(), 5, "Nowhere", asyncio.Queue])
def test_a_type_that_nothing_can_be_made_into_is_told(kind: Any) -> None:
    """The handler's mistake, not the value's."""

    async def main() -> None:
        with InTurn() as state:
            await state.put("a", 1)
            with pytest.raises(ObjectError, match="nothing can be made into a") as caught:
                await state.get("a", type=kind)
            assert not isinstance(caught.value, UnfitValue)

    asyncio.run(main())


@pytest.mark.parametrize("made", [each for each, _ in MADE], ids=["model", "dataclass", "Struct"])
def test_a_model_is_put_as_its_dict(made: Any) -> None:
    """Put as it is, it is refused, naming key, type and the remedy."""

    async def main() -> None:
        with InTurn() as state:
            for value in (made, [made]):
                with pytest.raises(
                    UnstorableValue, match=rf"state\['a'\].*{type(made).__name__}.*put its dict"
                ):
                    await state.put("a", value)

    asyncio.run(main())
