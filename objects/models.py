"""Making a stored value into the type that `get(type=…)` asks for.

Laws
- A msgspec Struct is made by msgspec, everything else by pydantic where it can, with the rules these have.
- A value that does not fit raises `UnfitValue`, which names the object, the key, the type and the problem.
  [test_models.py]
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

import msgspec
from pydantic import PydanticUserError, TypeAdapter, ValidationError

from perdure.schemas.errors import ObjectError, UnfitValue


def fitted(value: Any, kind: Any, key: str, name: str) -> Any:
    """`value`, stored under `name` by object `key`, as a `kind`.

    Raises `UnfitValue`, or ObjectError for a `kind` that nothing can be made into.
    """
    try:
        hash(kind)
    except TypeError:
        make = _constructor(kind)
    else:
        make = _known_constructor(kind)
    try:
        return make(value)
    except ValidationError as error:
        raise UnfitValue(_unfit(key, name, kind, _problems(error))) from None
    except msgspec.ValidationError as error:
        raise UnfitValue(_unfit(key, name, kind, str(error))) from None
    except PydanticUserError as error:  # only now is a missing name of a type noticed
        raise _no_type(kind, error) from None


def _constructor(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return partial(msgspec.convert, type=kind)
    try:
        return TypeAdapter(kind).validate_python
    except (
        PydanticUserError,
        NameError,
    ) as error:  # it may be made of Structs, which pydantic does not know
        try:
            msgspec.json.schema(kind)
        except Exception:  # noqa: BLE001 - whatever msgspec raises, pydantic's reason is reported
            raise _no_type(kind, error) from None
        return partial(msgspec.convert, type=kind)


_known_constructor = lru_cache(256)(_constructor)


def _no_type(kind: Any, error: Exception) -> ObjectError:
    return ObjectError(f"get: nothing can be made into a {_called(kind)}: {error}")


def _unfit(key: str, name: str, kind: Any, problem: str) -> str:
    return f"state[{name!r}] of {key} does not fit {_called(kind)}: {problem}"


def _called(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)


def _problems(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:5]
    )
