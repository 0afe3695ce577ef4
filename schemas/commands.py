"""Commands: requests to an object, as they lie in `{app}.commands`.

Laws
- The envelope is headers, the value is the body; a record without any header of these is a call.
- A header that is not perdure's never makes a command fail, whatever its name and value.
- `parse(record of a Command)` gives the same Command back (so a command handed over in memory and one
  read from the log are the same turn).
- Everything a record can get wrong raises `MalformedCommand` or `BadKey`; nothing else is raised.
- `Authorization` and `Cookie` are never written.
- What only perdure may send (the kinds alarm, socket and admin, WebSocket upgrades, a chain of callers, a
  principal, a hint where to place an object, what was forwarded) counts only under the app's seal: the broker
  knows which client wrote to the topic, perdure does not.

Headers that any client may set: `id` · `reply-to` · `deadline` ms from log time · `idempotency-key` ·
`traceparent` · of a fetch `http-{name}` per HTTP header. perdure's own, all with the prefix `perdure-`: `v`
format version (1) · `kind` fetch | call | alarm | socket | admin · `principal` · `method`, `path` (with
query) · from a turn: `chain` (its callers, one to a line), `mark` · `hint` · `forwarded` (forwards.py).
`seal` has no prefix. Those of earlier versions, without the prefix, are still read. A call's value is
`{"method": …, "args": […], "kwargs": {…}}`; an alarm's `{"set_at": …, "due": …}`. Others: foreign.py.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import lru_cache
from hashlib import blake2b
from math import isinf
from typing import Any

import msgspec

from perdure.schemas.errors import MalformedCommand
from perdure.schemas.foreign import NO_RULES, TOPIC, RecordRules, allowed, as_call, is_event, requested_reply
from perdure.schemas.keys import parse_key
from perdure.schemas.replies import Pairs
from perdure.schemas.seal import Seal, id_of

FETCH, CALL, ALARM, SOCKET, ADMIN = "fetch", "call", "alarm", "socket", "admin"
NOBODY = "none"  # reply-to of a command that needs no answer
LOCAL = "local"  # reply-to of a door in the owner's own process, on an exclusive log
PREFIX = "perdure-"  # of the headers that are perdure's alone
VERSION = b"1"
MAX_FIELD_BYTES = 1024  # of an id, a reply address or a trace context
MAX_DEADLINE_DIGITS = 12
MAX_CLIENT_KEY_CHARS = 255
NEVER_LOGGED = frozenset(("authorization", "cookie", "proxy-authorization"))
_PATH = PREFIX + "path"
_INTERNAL_KINDS = frozenset((ALARM, SOCKET, ADMIN))
_EARLIER_KINDS = frozenset(kind.encode() for kind in (FETCH, CALL, *_INTERNAL_KINDS))

Headers = tuple[tuple[str, bytes], ...]


class Command(msgspec.Struct, gc=False, frozen=True):
    """One request for one object.

    fetch: `method` and `path` are HTTP's, `headers` the HTTP headers in lower case, `body` as sent. call:
    `method` is the RPC method, `body` the JSON text with method, args and kwargs. alarm: `method` is the
    alarm's name, `body` says which setting of it came due. socket: `method` is message, close or error,
    `path` the socket's id, `body` the data. admin: `method` is the act, `body` says what it is about
    (schemas/admin.py). `deadline_ms` counts from the command's log time; None: it has none. `client_key`
    dedupes. `chain`: the turns that wait for this call, outermost first; `mark`: of a call or send, the low
    watermark of its caller's partition. `socket`: of a fetch that is a WebSocket upgrade, the socket's id,
    space, its gateway. `hint`: where the caller would place the object. `forwarded`: the partition, offset
    and log time of the record that it was forwarded from.
    """

    key: str
    kind: str
    method: str
    path: str = ""
    headers: Pairs = ()
    body: bytes = b""
    id: str = ""
    reply_to: str = ""
    deadline_ms: int | None = None
    client_key: str | None = None
    principal: str = ""
    traceparent: str = ""
    chain: tuple[str, ...] = ()
    mark: int = 0
    socket: str = ""
    hint: str = ""
    forwarded: str = ""

    @property
    def internal(self) -> bool:
        """True if only perdure itself may send it."""
        said = self.chain or self.mark or self.socket or self.principal or self.hint or self.forwarded
        return bool(said) or self.kind in _INTERNAL_KINDS


def sealed_record(command: Command, seal: Seal) -> tuple[bytes, bytes, Headers]:
    """(key, value, headers) of the record that carries a command which only perdure may send."""
    key, value, headers = command_record(command)
    if command.kind == SOCKET:
        headers += ((_PATH, command.path.encode()), *_encoded_headers(command.headers))
    if command.kind in _INTERNAL_KINDS:
        headers += ((PREFIX + "method", command.method.encode()),)
    if command.chain:
        headers += ((PREFIX + "chain", "\n".join(command.chain).encode()),)
    if command.mark:
        headers += ((PREFIX + "mark", b"%d" % command.mark),)
    if command.socket:
        headers += ((PREFIX + "socket", command.socket.encode()),)
    if command.hint:
        headers += ((PREFIX + "hint", command.hint.encode()),)
    if command.forwarded:
        headers += ((PREFIX + "forwarded", command.forwarded.encode()),)
    return key, value, seal.sealed(key, value, headers)


def command_record(command: Command) -> tuple[bytes, bytes, Headers]:
    """(key, value, headers) of the record that carries `command`, one that any client may send."""
    id_ = ("id", command.id.encode())
    if command.kind == FETCH:
        if command.client_key is None:
            envelope = _fetch_envelope(command.reply_to, command.deadline_ms, command.method, command.headers)
        else:  # a key is among the headers: no two requests have the same
            envelope = _fetch_envelope(command.reply_to, command.deadline_ms, command.method, ())
            envelope += _encoded_headers(command.headers)
        headers = (*envelope, (_PATH, command.path.encode()), id_)
    else:
        headers = (*_envelope(command.kind, command.reply_to, command.deadline_ms), id_)
    if command.client_key:
        headers += (("idempotency-key", command.client_key.encode()),)
    if command.principal:
        headers += ((PREFIX + "principal", command.principal.encode()),)
    if command.traceparent:
        headers += (("traceparent", command.traceparent.encode()),)
    return command.key.encode(), command.body, headers


@lru_cache(256)
def _envelope(kind: str, reply_to: str, deadline_ms: int | None) -> Headers:
    """What most commands of one door have in common."""
    headers = [(PREFIX + "kind", kind.encode())]
    if reply_to:
        headers.append(("reply-to", reply_to.encode()))
    if deadline_ms is not None:
        headers.append(("deadline", b"%d" % deadline_ms))
    return tuple(headers)


@lru_cache(1024)  # a client sends much the same headers each time
def _fetch_envelope(reply_to: str, deadline_ms: int | None, method: str, headers: Pairs) -> Headers:
    return (
        *_envelope(FETCH, reply_to, deadline_ms),
        (PREFIX + "method", method.encode()),
        *_encoded_headers(headers),
    )


def _encoded_headers(pairs: Pairs) -> Headers:
    return tuple([("http-" + name, value.encode("latin-1")) for name, value in pairs])


def parse_command(
    key: bytes | None,
    value: bytes | None,
    headers: Headers,
    seal: Seal | None = None,
    *,
    founding: bool = False,
    rules: RecordRules = NO_RULES,
) -> Command:
    """The command in a record. Raises `MalformedCommand` or `BadKey`.

    key, value, headers: those of the record.
    seal: verifies that perdure sent it; None: a command that only perdure may send is refused.
    founding: the record is older than the app's secret.
    rules: how records of other systems are read.
    """
    command = parse_admitted(key, value, headers, rules)
    if command.internal and (seal is None or not seal.holds(key, value, headers, founding=founding)):
        what = "calls from a turn or WebSockets"
        if command.kind in _INTERNAL_KINDS:
            what = f"commands of kind {command.kind!r}"
        elif command.forwarded:
            what = "forwarded commands"
        elif not (command.chain or command.mark or command.socket):
            what = "commands with a principal or a hint"
        with_secret = f" (it says: of the secret {id_})" if (id_ := id_of(headers)) else ""
        raise MalformedCommand(
            f"only perdure itself may send {what}: the record does not bear the app's seal{with_secret}"
        )
    return command


def parse_admitted(
    key: bytes | None, value: bytes | None, headers: Headers, rules: RecordRules = NO_RULES
) -> Command:
    """The command in a record that an owner has admitted before, whatever it is sealed with.

    key, value, headers, rules: as of `parse_command`, as are the errors.
    """
    named = dict(headers)
    own = _own_headers(named)
    if headers and not own and is_event(named):
        key, value, headers = as_call(key, value, headers, rules)
        named = dict(headers)
    if key is None:
        raise MalformedCommand("the record has no key: it needs the object's, such as Counter/alice")
    object_key = parse_key(key)
    if value is None:
        raise MalformedCommand("the record has no value: a command needs a body")
    if not headers:
        return Command(object_key, CALL, parse_call(value)[0], body=value)
    try:
        version, kind = own.get("v", VERSION), own.get("kind", b"call").decode()
        if version != VERSION:
            raise MalformedCommand(
                f"unknown command format version {version[:20]!r}: this version of perdure reads 1"
            )
        envelope = _client_envelope(named, rules)
        for name in ("principal", "socket", "hint", "forwarded"):
            if text := own.get(name):
                envelope[name] = text.decode()
        if chain := own.get("chain"):
            envelope["chain"] = tuple(chain.decode().split("\n"))
        if mark := own.get("mark"):
            envelope["mark"] = _number(mark)
        if kind == CALL:
            return Command(object_key, CALL, parse_call(value)[0], body=value, **envelope)
        if kind == FETCH or kind in _INTERNAL_KINDS:
            http = tuple((n[5:], v.decode("latin-1")) for n, v in headers if n.startswith("http-"))
            default = (b"GET", b"/") if kind == FETCH else (b"", b"")
            method, path = own.get("method", default[0]).decode(), own.get("path", default[1]).decode()
            return Command(object_key, kind, method, path, http, value, **envelope)
    except UnicodeDecodeError as error:
        raise MalformedCommand("a header of the record is not UTF-8") from error
    raise MalformedCommand(f"unknown kind of command {kind[:40]!r}: fetch and call are known")


def _own_headers(named: dict[str, bytes]) -> dict[str, bytes]:
    """What perdure's own headers say, by their names without the prefix.

    Of a record that an earlier version wrote, or a client for it, they are those without a prefix: its kind
    tells. What only perdure may send is not read there unless there is a seal: such a header of another's
    names something else.
    """
    own = {name[len(PREFIX) :]: value for name, value in named.items() if name.startswith(PREFIX)}
    kind, sealed = named.get("kind"), "seal" in named
    if own or kind not in _EARLIER_KINDS or named.get("v", VERSION) != VERSION:
        return own
    if sealed:
        return named
    if kind not in (b"call", b"fetch"):
        return own
    return {name: named[name] for name in ("kind", "method", "path") if name in named}


def _client_envelope(named: dict[str, bytes], rules: RecordRules) -> dict[str, Any]:
    """What a client may say, in headers without a prefix. One that makes no sense here is ignored; but for an
    idempotency key, which is a promise, and a reply topic. Raises `MalformedCommand`."""
    envelope: dict[str, Any] = {"reply_to": reply_address(named, rules)}
    if (id_ := _text(named.get("id"))) is not None:
        envelope["id"] = id_
    if (traceparent := _text(named.get("traceparent"))) is not None:
        envelope["traceparent"] = traceparent
    deadline = named.get("deadline")
    if deadline is not None and deadline.isdigit() and len(deadline) <= MAX_DEADLINE_DIGITS:
        envelope["deadline_ms"] = int(deadline)
    if (client_key := named.get("idempotency-key")) is not None:
        envelope["client_key"] = check_client_key(client_key.decode())
    return envelope


def reply_address(named: Mapping[str, bytes], rules: RecordRules = NO_RULES) -> str:
    """Where the headers of a record ask for the reply; empty if they do not.

    Raises `MalformedCommand` if it may not go there.
    """
    if (reply_to := _text(named.get("reply-to"))) is not None:
        return allowed(reply_to, rules) if reply_to.startswith(TOPIC) else reply_to
    return requested_reply(named, rules)


def _text(raw: bytes | None) -> str | None:
    """The text of a header that may be another's; None if there is none that could be meant for perdure."""
    if raw is None or len(raw) > MAX_FIELD_BYTES:
        return None
    try:
        return raw.decode()
    except UnicodeDecodeError:
        return None


def check_client_key(client_key: str) -> str:
    """A usable idempotency key. Raises `MalformedCommand`."""
    if not client_key or len(client_key) > MAX_CLIENT_KEY_CHARS or not client_key.isprintable():
        raise MalformedCommand(f"an idempotency key has 1 to {MAX_CLIENT_KEY_CHARS} printable characters")
    return client_key


def _number(raw: bytes) -> int:
    if not raw.isdigit() or len(raw) > 18:
        raise MalformedCommand(f"the mark {raw[:20]!r} is not an offset")
    return int(raw)


def call_body(method: str, args: list[Any], kwargs: dict[str, Any]) -> bytes:
    """The value of a call's record."""
    return msgspec.json.encode({"method": method, "args": args, "kwargs": kwargs})


def _no_constant(text: str) -> Any:
    raise ValueError(f"{text} is not JSON")


def _no_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    named = dict(pairs)
    if len(named) != len(pairs):
        names = [name for name, _ in pairs]
        twice = next(name for name in named if names.count(name) > 1)
        raise ValueError(f"a JSON object names one key twice: {twice[:60]!r}")
    return named


def _finite(text: str) -> float:
    if isinf(value := float(text)):
        raise ValueError(f"the number {text[:40]} is too large for a float")
    return value


def _or_as_written(text: str) -> float | msgspec.Raw:
    return msgspec.Raw(text.encode()) if isinf(value := float(text)) else value


_strict: dict[str, Any] = {"parse_constant": _no_constant, "object_pairs_hook": _no_duplicates}
_read_json = json.JSONDecoder(parse_float=_finite, **_strict).decode
_read_call = json.JSONDecoder(**_strict).decode
_read_body = json.JSONDecoder(parse_float=_or_as_written, **_strict).decode


def parse_json(body: bytes) -> Any:
    """JSON in UTF-8, strictly: no NaN, no number too large for a float, no duplicate keys, no lone
    surrogates, no nesting that exhausts the stack.

    Raises `MalformedCommand`.
    """
    return _parsed_json(body, _read_json)


def parse_arguments(body: bytes) -> Any:
    """As `parse_json`, of a call's body at a door: a number too large for a float
    is kept as it was written for `call_body`.

    Whether it is an infinity or refused is for the annotation of its argument to say.
    """
    return _parsed_json(body, _read_body)


def _parsed_json(body: bytes, read: Callable[[str], Any]) -> Any:
    try:
        text = body.decode()
        value = read(text)
        if "\\u" in text:  # an escape may be half of a pair: such a str could not be written anywhere
            json.dumps(value, ensure_ascii=False, default=_written).encode()
        return value
    except (ValueError, RecursionError) as error:
        reason = "nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise MalformedCommand(f"the body is not JSON: {reason}") from error


def _written(_: object) -> None:
    """In place of a number that is kept as it was written."""


def parse_call(body: bytes) -> tuple[str, list[Any], dict[str, Any]]:
    """(method, args, kwargs) of a call's body. Raises `MalformedCommand`."""
    call = _parsed_json(body, _read_call)
    if type(call) is not dict or type(call.get("method")) is not str:
        raise MalformedCommand('a call is a JSON object such as {"method": "increment", "args": [2]}')
    args, kwargs = call.get("args", []), call.get("kwargs", {})
    if type(args) is not list or type(kwargs) is not dict:
        raise MalformedCommand('"args" is a JSON array, "kwargs" a JSON object')
    if unknown := call.keys() - {"method", "args", "kwargs"}:
        raise MalformedCommand(f"a call has no {min(unknown)!r}: method, args and kwargs are known")
    return call["method"], args, kwargs


_encode = msgspec.msgpack.Encoder().encode
new_hash = blake2b(digest_size=16).copy  # a copy costs less than making a new one


def record_hash(key: bytes | None, value: bytes | None, headers: Headers) -> bytes:
    """A hash of 16 bytes of the whole command record (BLAKE2b)."""
    return blake2b(_encode((key, value, headers)), digest_size=16).digest()


def payload_hash(command: Command) -> bytes:
    """A hash of 16 bytes of a client's request: the same key with another payload is a misuse."""
    request = (command.key, command.kind, command.method, command.path, command.body)
    hashed = new_hash()
    hashed.update(_encode(request))
    return hashed.digest()
