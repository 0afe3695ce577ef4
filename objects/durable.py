"""`DurableObject`, the base class of a user's classes, with its `env` and the bindings in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perdure.objects.http import Request, Response
from perdure.objects.location import checked_hint
from perdure.objects.names import ObjectId
from perdure.objects.rpc import Methods
from perdure.objects.sockets import WebSocket
from perdure.objects.state import State
from perdure.objects.stubs import Stub, caller
from perdure.schemas.errors import BadKey
from perdure.schemas.keys import namespace_of, object_key


@dataclass(frozen=True, slots=True)
class Binding:
    """A namespace of objects, as an attribute of `self.env`: `self.env.STOCK.get("tea")`.

    `methods` are those of its class; their annotations define how arguments and results are written and read.
    """

    namespace: str
    methods: Methods | None = field(default=None, repr=False, compare=False)

    def get(self, name: str | ObjectId, *, location_hint: str | None = None) -> Stub:
        """A stub of the object called `name`. An object need not be created: it
        exists from its first command on.

        name: 1 to 512 bytes of UTF-8, or an `ObjectId` of this namespace.
        location_hint: a word such as `weur`, recorded with the object (the first
            one is kept). It has no effect yet.

        Raises `BadKey` for a name that cannot be one or an id of another namespace,
        ValueError for a hint that is not a word.
        """
        hint = checked_hint(location_hint)
        if isinstance(name, ObjectId):
            if namespace_of(name.key) != self.namespace:
                raise BadKey(f"{name} is not an id of the namespace {self.namespace}")
            return Stub(name.key, hint, self.methods)
        return Stub(object_key(self.namespace, name), hint, self.methods)

    get_by_name = get

    def id_from_name(self, name: str) -> ObjectId:
        """The id of the object called `name`. Raises `BadKey`."""
        return ObjectId(object_key(self.namespace, name))

    id_from_string = id_from_name

    def new_unique_id(self) -> ObjectId:
        """A new random id, in hex. A turn that runs again gets the same one. Raises
        `TurnEnded` outside a turn.
        """
        return ObjectId(object_key(self.namespace, caller().new_id()))


class Env:
    """The bindings, vars and secrets of the configuration: `self.env.NAME` or `self.env["NAME"]`.

    Raises AttributeError for a name that the configuration does not have.
    """

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __repr__(self) -> str:
        return f"<env of {', '.join(sorted(self.__dict__))}>"  # names only: some of the values are secrets

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(
            f"env has no {name!r}: name it under [vars], in secrets or under [[durable_objects.bindings]]"
        )

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


class DurableObject:
    """The base class of every durable object. A subclass defines `fetch`, `async def` methods, or both.

    Every `async def` method without a leading underscore can be called over RPC. One command runs at a time;
    a handler that raises has changed nothing. Attributes set on `self` are memory: they are lost when the
    object leaves it.

    Attributes:
        state: the object's durable storage, a `State`.
        env: the bindings, vars and secrets of the configuration, an `Env`.
    """

    state: State
    env: Env

    def __init__(self, state: State, env: Env) -> None:
        self.state = state
        self.env = env

    async def start(self) -> None:
        """Called before the first command after the object was loaded into memory.
        Its writes belong to that turn.
        """

    async def fetch(self, request: Request) -> Response:
        """Answer an HTTP request. A class that does not define it answers 404."""
        return Response(
            "this class defines no fetch(): call its methods at POST /rpc/NAMESPACE/NAME/METHOD\n", 404
        )

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        """Called for each message on a WebSocket of the object: str for a text
        message, bytes for a binary one.
        """

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        """Called once when a WebSocket of the object has closed. Its tags and
        attachment can be read here a last time.

        ws: the socket; sending to it does nothing.
        code: the close code; 1005 if the client gave none, 1006 if the connection broke.
        reason: the client's text, often empty.
        was_clean: True if the client closed it with a close frame.
        """

    async def websocket_error(self, ws: WebSocket, error: Exception) -> None:
        """Called when a client broke the WebSocket protocol; `websocket_close`
        follows. `error` is a `BadFrame`.
        """
