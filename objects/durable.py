"""`DurableObject`: the class a user writes, and what it finds on `self`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from perdure.objects.http import Request, Response
from perdure.objects.names import ObjectId
from perdure.objects.placing import checked_hint
from perdure.objects.rpc import Methods
from perdure.objects.sockets import WebSocket
from perdure.objects.state import State
from perdure.objects.stubs import Stub, caller
from perdure.schemas.errors import BadKey
from perdure.schemas.keys import namespace_of, object_key


@dataclass(frozen=True, slots=True)
class Binding:
    """What `env` calls a namespace. `methods` are those of its class, by which calls and answers are written and read."""

    namespace: str
    methods: Methods | None = field(default=None, repr=False, compare=False)

    def get(self, name: str | ObjectId, *, location_hint: str | None = None) -> Stub:
        """The object called `name` (or with this id); it exists as soon as it is first spoken to.

        `location_hint` (a word such as `weur`) is recorded with the object, the first one for good, and decides nothing
        yet: ids route to one place. Raises `BadKey`, ValueError for a hint that is no word.
        """
        hint = checked_hint(location_hint)
        if isinstance(name, ObjectId):
            if namespace_of(name.key) != self.namespace:
                raise BadKey(f"{name} is no id of the namespace {self.namespace}")
            return Stub(name.key, hint, self.methods)
        return Stub(object_key(self.namespace, name), hint, self.methods)

    get_by_name = get

    def id_from_name(self, name: str) -> ObjectId:
        """The id of the object called `name`. Raises `BadKey`."""
        return ObjectId(object_key(self.namespace, name))

    id_from_string = id_from_name

    def new_unique_id(self) -> ObjectId:
        """An id that no other object has, hex; a turn that runs again gets the same. Raises `TurnEnded`."""
        return ObjectId(object_key(self.namespace, caller().new_id()))


class Env:
    """`self.env`: bindings, vars and secrets of the configuration, as attributes and as `env["NAME"]`."""

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
    """Base of every durable object. Subclass it; give it `fetch`, or `async def` methods to be called.

    `self.state` is the object's storage, `self.env` its bindings and vars. Attributes on `self` are memory:
    they last while the object is resident. One turn runs at a time; a turn that raises leaves no trace.
    """

    state: State
    env: Env

    def __init__(self, state: State, env: Env) -> None:
        self.state = state
        self.env = env

    async def start(self) -> None:
        """Runs before the first turn of a residence; what it writes belongs to that turn."""

    async def fetch(self, request: Request) -> Response:
        """Answer an HTTP request. Without one of its own an object answers 404."""
        return Response("this object answers no HTTP requests; it may have methods: POST /rpc/…", 404)

    async def websocket_message(self, ws: WebSocket, message: str | bytes) -> None:
        """A message on a WebSocket that the object accepted: str if it is text, bytes if it is binary."""

    async def websocket_close(self, ws: WebSocket, code: int, reason: str, was_clean: bool) -> None:
        """A WebSocket is gone; its tags and attachment can be read here for the last time.

        `code` 1005: the client gave none; 1006: the connection broke. The object is told of each once.
        """

    async def websocket_error(self, ws: WebSocket, error: Exception) -> None:
        """The client broke the protocol; the close follows."""
