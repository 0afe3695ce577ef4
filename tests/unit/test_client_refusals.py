"""What the client refuses at once, because no server could make anything of it:
nothing is sent, and nothing is asked again.
"""

from __future__ import annotations

import asyncio
import contextlib
from math import inf, nan
from typing import Any

import pytest

import perdure
from perdure.api.client.attempts import Unreachable
from perdure.schemas.errors import ConfigError


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("kafka://x:9092", "the client does not speak to Kafka"),
        ("ftp://x", "http://"),
        ("nothing", "http://"),
        ("http://127.0.0.1:99999", "a port is a number from 1 to 65535"),
        ("http://127.0.0.1:0", "a port is a number from 1 to 65535"),
        ("http://a..b", "host"),
        (f"http://{'a' * 64}", "host"),
        ("http://xn--", "host"),
    ],
)
def test_an_address_that_is_none_is_refused(url: str, said: str) -> None:
    """At once, with the remedy."""
    with pytest.raises(ConfigError, match=said):
        perdure.connect(url)


@pytest.mark.parametrize("timeout", [0, -1, nan, inf, "5", True, None])
def test_a_time_that_is_none_is_refused(timeout: Any) -> None:
    """In both styles, at `connect` and at `get`; there None is what `connect` was given."""
    with pytest.raises(ConfigError, match=r"timeout=.* is a finite number of seconds above 0"):
        perdure.connect("http://x", timeout=timeout)
    refused = pytest.raises(ValueError, match=r"timeout=.* is a finite number of seconds above 0")

    async def awaited() -> None:
        async with perdure.connect("http://x") as app:
            app.get("Counter", "a", timeout=timeout)

    with contextlib.nullcontext() if timeout is None else refused:
        asyncio.run(awaited())
    with perdure.connect("http://x") as app, contextlib.nullcontext() if timeout is None else refused:
        app.get("Counter", "a", timeout=timeout)


def test_a_time_beyond_what_clocks_count_is_a_long_one() -> None:
    """No overflow in a socket or a lock."""
    with (
        perdure.connect("http://127.0.0.1:1", timeout=10**400, retry=False) as app,
        pytest.raises(Unreachable),
    ):
        app.get("Counter", "a").increment()


@pytest.mark.parametrize("token", ["", "secret\n", " secret", "two words", "schlüssel"])
def test_a_token_that_is_none_is_refused_unseen(token: str) -> None:
    """Before anything is sent, not as an outcome that is unknown; and nobody reads it in the error."""
    with pytest.raises(ConfigError, match=r"is empty|a line break") as refused:
        perdure.connect("http://x", token=token)
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize("headers", [{"x-note": "ü"}, {"x-note": "a\nb"}, {"x note": "a"}, {"": "a"}])
def test_what_is_no_header_is_refused_before_it_is_sent(headers: dict[str, str]) -> None:
    """Nothing listens there: had anything been tried, it would be told of the connection."""
    with (
        perdure.connect("http://127.0.0.1:1") as app,
        pytest.raises(ValueError, match="cannot be sent, nothing was"),
    ):
        app.get("Counter", "a").fetch("GET", headers=headers)


@pytest.mark.parametrize("method", ["/path", "G T", "http://evil/", "", "GET\n"])
def test_what_is_no_method_is_refused_before_it_is_sent(method: str) -> None:
    """At once, with the order of the arguments, which is another one inside of objects."""
    with (
        perdure.connect("http://127.0.0.1:1") as app,
        pytest.raises(ValueError, match=r'not an HTTP method, nothing was sent.*fetch\("POST", "/path"\)'),
    ):
        app.get("Counter", "a").fetch(method)


@pytest.mark.parametrize("key", ["", "k" * 256, "a\nb", "ключ", " a", "a ", 7])
def test_an_idempotency_key_that_is_none_is_refused(key: Any) -> None:
    """By `get`, at once: an empty one is not "no key", which would do the same work twice."""
    refused = pytest.raises(ValueError, match="1 to 255 printable")

    async def awaited() -> None:
        async with perdure.connect("http://x") as app:
            app.get("Counter", "a", idempotency_key=key)

    with refused:
        asyncio.run(awaited())
    with perdure.connect("http://x") as app:
        app.get("Counter", "a", idempotency_key="k " * 127 + "k")
        with refused:
            app.get("Counter", "a", idempotency_key=key)


@pytest.mark.parametrize("kind", [int, str, object, None, 7])
def test_a_class_that_is_no_objects_is_told_so(kind: Any) -> None:
    """Not as a method that is not there."""
    with (
        perdure.connect("http://x") as app,
        pytest.raises(TypeError, match="is not a subclass of DurableObject"),
    ):
        app.get(kind, "a")


@pytest.mark.parametrize("path", ["/../Vault/x", "..", "/a/./b", "a/..?x=1"])
def test_a_path_does_not_lead_to_another_object(path: str) -> None:
    """As HTTP clients would resolve it, for a WebSocket too. Dots in names and in
    the query are no such thing.
    """
    with perdure.connect("http://127.0.0.1:1", timeout=0.5) as app:
        for ask in (app.get("Counter", "a").fetch, lambda _, at: app.get("Counter", "a").websocket(at)):
            with pytest.raises(ValueError, match="nothing was sent"):
                ask("GET", path)
        for fine in ("/.../x", "/a..b", "/x?to=../y"):
            with pytest.raises(Unreachable):
                app.get("Counter", "a").fetch("GET", fine)
