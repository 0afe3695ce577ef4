"""The registry: which class stands behind each namespace, and what `env` holds.

Laws
- A namespace is named once, by the migration that creates it, and never changes; without any migration each
  class is a namespace of its own name.
- A class is bound by its own name too, unless the configuration gives that name to something else.
- A mismatch is a `ConfigError` at start, which names the thing and the remedy. [test_registry.py]
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

from perdure.objects.alarms import OnRing, alarm_of
from perdure.objects.durable import Binding, DurableObject, Env
from perdure.objects.projection import Projection
from perdure.objects.rpc import Method, methods_of
from perdure.schemas.config import Config
from perdure.schemas.errors import ConfigError, UnknownNamespace

# How perdure calls what a class may define, after `self`.
_HANDLERS = {
    "__init__": ("state", "env"),
    "start": (),
    "fetch": ("request",),
    "websocket_message": ("ws", "message"),
    "websocket_close": ("ws", "code", "reason", "was_clean"),
    "websocket_error": ("ws", "error"),
}


class ObjectType:
    """The type of the objects in one namespace: its class, its callable methods, and its alarm handler."""

    __slots__ = ("alarm", "cls", "methods", "namespace", "starts")

    def __init__(self, namespace: str, cls: type[DurableObject]) -> None:
        _check_handlers(cls)
        self.namespace = namespace
        self.cls = cls
        self.methods: dict[str, Method] = methods_of(cls)
        self.alarm: OnRing | None = alarm_of(cls)
        self.starts = cls.start is not DurableObject.start  # the class defines it


class Registry:
    """All namespaces of an app; `env` is what its objects see, `projections` what it folds, by name."""

    def __init__(
        self,
        types: Mapping[str, ObjectType],
        env: Env,
        projections: Mapping[str, Projection[Any]] = MappingProxyType({}),
    ) -> None:
        self.types = dict(types)
        self.env = env
        self.projections = projections

    @classmethod
    def build(
        cls,
        classes: Mapping[str, type[DurableObject]],
        config: Config,
        projections: Mapping[str, Projection[Any]] = MappingProxyType({}),
    ) -> Registry:
        """From the classes and projections an app defines and its configuration. Raises `ConfigError`."""
        if not classes:
            raise ConfigError("the app defines no durable object: subclass perdure.DurableObject in it")
        made = config.namespaces()
        for name in made.values():
            if name not in classes:
                raise ConfigError(
                    f"a migration makes the class {name}, which the app does not define: {_known(classes)}"
                )
        # when no migration is configured, not when none is left to run
        namespaces = made if config.migrations else {name: name for name in classes}
        homes = {name: namespace for namespace, name in namespaces.items()}
        for binding in config.bindings:
            if binding.class_name not in classes:
                raise ConfigError(
                    f"the binding {binding.name} names the class {binding.class_name}, "
                    f"which the app does not define: {_known(classes)}; if it stands in another file, serve the folder"
                )
        types = {namespace: ObjectType(namespace, classes[name]) for namespace, name in namespaces.items()}
        own_names = {name: Binding(home, types[home].methods) for name, home in homes.items()}
        bindings = {each.name: own_names[each.class_name] for each in config.bindings}
        return cls(types, Env({**own_names, **config.vars, **config.secret_values, **bindings}), projections)

    def type_of(self, namespace: str) -> ObjectType:
        """The type of the objects in `namespace`. Raises `UnknownNamespace`, which names those that exist."""
        object_type = self.types.get(namespace)
        if object_type is None:
            known = ", ".join(sorted(self.types)) or "none"
            raise UnknownNamespace(f"this app has no namespace {namespace[:60]!r}; it has: {known}")
        return object_type


def _check_handlers(cls: type[DurableObject]) -> None:
    """Check that perdure can call the handlers that `cls` defines. Raises `ConfigError`."""
    for name, given in _HANDLERS.items():
        function = getattr(cls, name)
        if function is getattr(DurableObject, name):
            continue
        try:
            inspect.signature(function).bind(None, *given)
        except TypeError as error:
            made = "def" if name == "__init__" else "async def"
            raise ConfigError(
                f"{cls.__qualname__}.{name} cannot be called as perdure calls it ({error}): "
                f"write `{made} {name}({', '.join(('self', *given))})`"
            ) from None
        except ValueError:  # a callable without a signature
            continue


def _known(classes: Mapping[str, object]) -> str:
    return "it has " + ", ".join(sorted(classes))
