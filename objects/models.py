"""Making a stored value into the type that `get(type=…)` asks for.

Laws
- A msgspec Struct is made by msgspec, everything else by pydantic where it can, with the rules these have.
- What does not fit is `UnfitValue`, which names the object, the key, the type and what is wrong.
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
        make = _maker(kind)
    else:
        make = _known_maker(kind)
    try:
        return make(value)
    except ValidationError as error:
        raise UnfitValue(_unfit(key, name, kind, _told(error))) from None
    except msgspec.ValidationError as error:
        raise UnfitValue(_unfit(key, name, kind, str(error))) from None
    except PydanticUserError as error:  # a name of a type that is not there is found only now
        raise _no_type(kind, error) from None


def _maker(kind: Any) -> Callable[[Any], Any]:
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return partial(msgspec.convert, type=kind)
    try:
        return TypeAdapter(kind).validate_python
    except (
        PydanticUserError,
        NameError,
    ) as error:  # it may be made of Structs, of which pydantic knows nothing
        try:
            msgspec.json.schema(kind)
        except Exception:  # noqa: BLE001 - whatever msgspec says, pydantic's reason is the one to tell
            raise _no_type(kind, error) from None
        return partial(msgspec.convert, type=kind)


_known_maker = lru_cache(256)(_maker)


def _no_type(kind: Any, error: Exception) -> ObjectError:
    return ObjectError(f"get: nothing can be made into a {_called(kind)}: {error}")


def _unfit(key: str, name: str, kind: Any, told: str) -> str:
    return f"state[{name!r}] of {key} does not fit {_called(kind)}: {told}"


def _called(kind: Any) -> str:
    return f"{kind.__module__}.{kind.__qualname__}" if isinstance(kind, type) else str(kind)


def _told(error: ValidationError) -> str:
    return "; ".join(
        f"{'.'.join(map(str, each['loc'])) or 'value'}: {each['msg']}"
        for each in error.errors(include_url=False, include_input=False, include_context=False)[:5]
    )
