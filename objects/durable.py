"""`DurableObject`: the class a user writes, and what it finds on `self`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from perdure.objects.http import Request, Response
from perdure.objects.sockets import WebSocket
from perdure.objects.state import State
from perdure.schemas.keys import object_key


@dataclass(frozen=True, slots=True)
class Stub:
    """A name for an object of another (or the same) namespace; `key` is its canonical key."""

    key: str


@dataclass(frozen=True, slots=True)
class Binding:
    """What `env` calls a namespace."""

    namespace: str

    def get(self, name: str) -> Stub:
        """The object called `name`; it exists as soon as it is first spoken to. Raises `BadKey`."""
        return Stub(object_key(self.namespace, name))

    get_by_name = get


class Env:
    """`self.env`: bindings and vars of the configuration, as attributes and as `env["NAME"]`."""

    def __init__(self, values: Mapping[str, Any]) -> None:
        self.__dict__.update(values)

    def __getattr__(self, name: str) -> Any:
        raise AttributeError(f"env has no {name!r}: name it under [vars] or [[durable_objects.bindings]]")

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
