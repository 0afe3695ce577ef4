"""Who may do what, decided from values: scopes, claims, quotas, tickets, keys, and
what a configuration may say.
"""

from __future__ import annotations

import asyncio
import base64
import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from jwt.algorithms import RSAAlgorithm
from tests.unit.one_owner import OneOwner, story

from perdure.api import server
from perdure.api.access.guard import Access, bearer_of, need_of_object, need_of_page, ticket_in
from perdure.api.access.jwks import FRESH_S, MIN_INTERVAL_S, STALE_S, Keyring, keys_in
from perdure.api.access.quotas import Quotas
from perdure.api.access.tickets import TICKET_S, Tickets
from perdure.api.gateway import Gateway
from perdure.api.problems import problem_of
from perdure.api.replies import ReplyFuture
from perdure.objects.durable import DurableObject
from perdure.schemas.access import (
    KNOWN,
    NOBODY,
    Grant,
    Need,
    Quota,
    Token,
    grant_of_claims,
    may,
    scopes_among,
    token_hash,
    token_of,
)
from perdure.schemas.commands import CALL, Command, parse_command
from perdure.schemas.config import Config, parse_config
from perdure.schemas.errors import (
    ConfigError,
    Forbidden,
    MalformedCommand,
    Overloaded,
    OverQuota,
    Unauthenticated,
    Unavailable,
)
from perdure.schemas.seal import Seal
from perdure.streams.log.base import Record, Topic
from perdure.streams.turns.ports import UNSEALED  # of the owners of these stories

HASH = "0" * 64
TOKENS = f'[[tokens]]\nname = "shop"\nsha256 = "{HASH}"\nscopes = ["call:Cart", "metrics"]\n'


# Rights


@pytest.mark.parametrize(
    ("scopes", "need", "allowed"),
    [
        ("call:Cart", Need("call", "Cart"), True),
        ("call:Cart", Need("call", "Carts"), False),
        ("call:Cart", Need("call", "cart"), False),
        ("call:Cart", Need("read", "Cart"), False),
        ("call:*", Need("call", "Cart"), True),
        ("call:*", Need("subscribe", "Cart"), False),
        ("read:Cart", Need("read", "*"), False),
        ("admin", Need("admin"), True),
        ("admin", Need("metrics"), True),
        ("metrics", Need("metrics"), True),
        ("metrics", Need("admin"), False),
        ("admin", Need("call", "Cart"), False),
        ("", Need(KNOWN), True),
        ("", Need("call", "Cart"), False),
        ("", Need("nonsense"), False),
    ],
)
def test_a_right_is_what_a_scope_names(scopes: str, need: Need, allowed: bool) -> None:
    """No verb holds another but admin, which holds metrics; a namespace is itself, to the letter."""
    assert may(Grant("me", scopes_among(scopes)), need) is allowed


def test_nobody_is_not_known() -> None:
    """Where objects are open, whoever has no credentials has no right but to them."""
    assert may(NOBODY, Need("call", "Cart"))
    assert not any(may(NOBODY, Need(verb)) for verb in (KNOWN, "admin", "metrics"))


def test_scopes_of_others_are_no_rights() -> None:
    """A claim may be a text or a list, and hold what is for somebody else."""
    wanted = frozenset(("call:Cart", "read:*"))
    assert scopes_among("openid call:Cart read:* call: call:a/b admins *") == wanted
    assert scopes_among(["call:Cart", "read:*", 5, None, ["admin"], "call:Cart admin"]) == wanted
    assert scopes_among({"admin": True}) == scopes_among(None) == scopes_among(5) == frozenset()


def test_the_right_is_taken_from_the_path_that_is_then_asked() -> None:
    """Method, door and the namespace as it stands in the raw path; nothing is decoded."""
    assert need_of_object("GET", b"/objects/Cart/a/b") == Need("read", "Cart")
    assert need_of_object("HEAD", b"/objects/Cart") == Need("read", "Cart")
    assert need_of_object("get", b"/objects/Cart/a") == Need("call", "Cart")
    assert need_of_object("POST", b"/objects/%43art/a") == Need("call", "%43art")
    assert need_of_object("GET", b"/rpc/Cart/a/x") == Need("call", "Cart")
    assert need_of_page("metrics", has_worker=True) == need_of_page("metrics", has_worker=False)
    assert need_of_page("livez", has_worker=False) is None
    assert need_of_page("users", has_worker=True) is None
    assert need_of_page("users", has_worker=False) == Need(KNOWN)


def test_credentials_are_one_bearer_token() -> None:
    """Two headers, another scheme or an empty one count for nobody, not for somebody without credentials."""
    one = (b"authorization", b"Bearer pdr_x")
    assert bearer_of([(b"x", b"y"), one]) == b"pdr_x"
    assert bearer_of([(b"authorization", b"bEARER  pdr_x ")]) == b"pdr_x"
    assert bearer_of([]) is None
    for wrong in ([one, one], [(b"authorization", b"Basic pdr_x")], [(b"authorization", b"pdr_x")]):
        assert bearer_of(wrong) == b""


def test_a_ticket_leaves_the_query() -> None:
    """The rest of the query stays as it was sent."""
    assert ticket_in(b"a=1&ticket=t&b=%20") == (b"t", b"a=1&b=%20")
    assert ticket_in(b"ticket=t") == (b"t", b"")
    assert ticket_in(b"ticket=t&ticket=u") == (b"", b"")
    assert ticket_in(b"myticket=t") == (None, b"myticket=t")


def access(*tokens: Token, clock_s: Callable[[], float] = lambda: 1000.0, **more: Any) -> Access:
    return Access(tokens, None, Quotas({}), Tickets(b"s", lambda: "n"), clock_s=clock_s, **more)


def test_a_token_is_known_by_its_hash_until_it_ends() -> None:
    """The right text gives the grant; after its time, another text, or none, nobody."""
    text = token_of(b"\xff" * 32)
    assert text == "pdr_" + "_" * 42 + "8"
    token = Token.model_validate(
        {"name": "shop", "sha256": token_hash(text.encode()), "scopes": ["call:Cart"]}
    )
    ends = token.model_copy(update={"expires": datetime.fromtimestamp(2000, UTC)})
    now = [1000.0]
    known = access(ends, clock_s=lambda: now[0])
    grant = known.authenticate(text.encode())
    assert (grant.principal, grant.rights, grant.expires_s) == ("shop", frozenset(("call:Cart",)), 2000.0)
    known.permit(grant, Need("call", "Cart"))
    with pytest.raises(Forbidden, match="call:Room"):
        known.permit(grant, Need("call", "Room"))
    for wrong in (None, b"", text.encode()[:-1], text.encode() + b"A", b"a.b.c", HASH.encode()):
        with pytest.raises(Unauthenticated):
            known.authenticate(wrong)
    now[0] = 2000.0
    assert not known.current(grant)
    with pytest.raises(Unauthenticated):
        known.permit(grant, Need("call", "Cart"))
    with pytest.raises(Unauthenticated):
        known.authenticate(text.encode())


@pytest.mark.parametrize(
    ("bearer", "says"),
    [
        (None, "this needs a valid token: Authorization: Bearer TOKEN"),
        (b"", "credentials that were sent are not valid here"),
        (b"pdr_unknown", "credentials that were sent are not valid here"),
    ],
)
def test_a_client_that_sent_a_token_is_not_told_to_send_one(bearer: bytes | None, says: str) -> None:
    """But that it is not accepted; why, it does not learn."""
    with pytest.raises(Unauthenticated, match=says):
        access().authenticate(bearer)


def test_where_objects_are_open_wrong_credentials_are_still_wrong() -> None:
    """None is nobody, who may ask objects; some that do not count are refused."""
    known = access(open_objects=True)
    assert known.authenticate(None) is NOBODY
    with pytest.raises(Unauthenticated):
        known.authenticate(b"pdr_wrong")
    with pytest.raises(Unauthenticated):
        known.permit(NOBODY, Need("metrics"))


def test_an_issuer_cannot_hand_out_the_name_of_a_token() -> None:
    """Principals share stored answers and quotas, so that no two sources may make the same one."""

    class Issuer:
        def pending(self, token: bytes) -> None:
            return None

        def grant(self, token: bytes) -> Grant:
            return Grant(token.decode(), frozenset())

    tokens = parse_config(TOKENS, "perdure.toml").tokens
    known = Access(tokens, Issuer(), Quotas({}), Tickets(b"s", lambda: "n"), clock_s=lambda: 0.0)
    assert known.authenticate(b"alice").principal == "alice"
    with pytest.raises(Unauthenticated):
        known.authenticate(b"shop")


# Claims


GOOD = {"sub": "alice", "exp": 2000, "scope": "call:Cart openid"}


@pytest.mark.parametrize(
    "wrong",
    [
        {"exp": 970},
        {"exp": None},
        {"exp": "2000"},
        {"exp": True},
        {"exp": float("nan")},
        {"exp": float("inf")},
        {"exp": 10**400},
        {"nbf": 1031},
        {"nbf": "now"},
        {"iat": 1031},
        {"sub": ""},
        {"sub": None},
        {"sub": 5},
        {"sub": "@Room/a"},
        {"sub": "a\0b"},
        {"sub": "a\nb"},
        {"sub": "a" * 256},
    ],
)
def test_claims_that_do_not_hold_are_nobodys(wrong: dict[str, Any]) -> None:
    """Times that are over, to come or none, and names that no principal from outside may have."""
    assert grant_of_claims(GOOD | wrong, "scope", now_s=1000.0, leeway_s=30.0) is None


def test_claims_are_a_grant() -> None:
    """The end has the leeway; a clock that is a little behind or before is forgiven."""
    grant = grant_of_claims(GOOD | {"nbf": 1030, "iat": 1030.0}, "scope", now_s=1000.0, leeway_s=30.0)
    assert grant == Grant("alice", frozenset(("call:Cart",)), 2030.0)
    assert grant_of_claims(GOOD | {"exp": 971}, "scope", now_s=1000.0, leeway_s=30.0) is not None
    told = grant_of_claims(GOOD | {"roles": ["read:*"]}, "roles", now_s=0.0, leeway_s=0.0)
    assert told is not None
    assert told.rights == {"read:*"}


# Quotas


def over(quotas: Quotas, principal: str, now_s: float, **taken: int) -> float | None:
    try:
        quotas.take(principal, now_s, **taken)
    except OverQuota as error:
        return error.retry_after_s
    return None


def test_a_bucket_empties_and_fills() -> None:
    """A burst, then the rate; what is refused takes nothing, and says when to come again."""
    quotas = Quotas({"*": Quota(requests_per_s=2.0, burst=3)})
    assert [over(quotas, "a", 0.0) for _ in range(4)] == [None, None, None, 0.5]
    assert [over(quotas, "a", 0.25) for _ in range(3)] == [0.25, 0.25, 0.25]
    assert [over(quotas, "a", 0.5) for _ in range(2)] == [None, 0.5]
    assert [over(quotas, "a", 1000.0) for _ in range(4)] == [None, None, None, 0.5]
    assert [over(quotas, "a", 0.0), over(quotas, "b", 0.0)] == [
        0.5,
        None,
    ]  # a clock that went back gives nothing


def test_bodies_are_paid_for_afterwards() -> None:
    """A body larger than a second's worth passes, and what follows waits until it is paid; others do not."""
    quotas = Quotas({"a": Quota(requests_per_s=100.0, body_bytes_per_s=1000)})
    assert over(quotas, "a", 0.0, body_bytes=3000) is None
    assert over(quotas, "a", 0.0, body_bytes=1) == pytest.approx(2.001)
    assert over(quotas, "a", 0.0) is None  # without a body
    assert over(quotas, "a", 2.1, body_bytes=1) is None
    assert over(quotas, "b", 0.0, body_bytes=1 << 30) is None  # has no quota


def test_buckets_are_bounded() -> None:
    """The one that asked longest ago is forgotten."""
    quotas = Quotas({"*": Quota(requests_per_s=1.0)}, principals=2)
    for each in ("a", "b", "a", "c"):
        over(quotas, each, 0.0)
    assert over(quotas, "a", 0.0) is not None
    assert over(quotas, "b", 0.0) is None
    assert len(quotas._buckets) == 2


def test_which_quota_was_reached_is_told_with_its_limit() -> None:
    """Whose it is, of requests or of bytes, whichever has to be waited for longer, and how long."""
    quotas = Quotas({"*": Quota(requests_per_s=0.5, burst=1, body_bytes_per_s=1000)})
    quotas.take("a", 0.0)
    with pytest.raises(
        OverQuota, match=r"^a may make 0.5 requests per second, 1 at once \(quotas\): .* 2 s$"
    ):
        quotas.take("a", 0.0)
    quotas.take("", 0.0, requests=0, body_bytes=9999)
    with pytest.raises(
        OverQuota,
        match=r"^a client without a token may send 1000 bytes of bodies per second \(quotas\): .* 9 s$",
    ):
        quotas.take("", 0.0, body_bytes=1)


def test_a_quota_is_told_as_429() -> None:
    """With whole seconds, one at least."""
    for seconds, told in ((0.2, b"1"), (1.2, b"2")):
        status, headers, _ = problem_of(OverQuota(retry_after_s=seconds))
        assert (status, dict(headers)[b"retry-after"]) == (429, told)


# Tickets


def tickets(used_max: int = 10) -> Tickets:
    numbers = iter(range(1000))
    return Tickets(b"secret", lambda: str(next(numbers)), used_max)


ALICE = Grant("alice", frozenset(("subscribe:*", "admin")), 2000.0)


def test_a_ticket_opens_one_socket_of_one_object() -> None:
    """It carries its principal and the end of the token, and no right beyond the object's namespace."""
    made = tickets()
    ticket = made.make(ALICE, "Room/a", 1000.0).encode()
    with pytest.raises(Unauthenticated):
        made.redeem(ticket, "Room/b", 1000.0)
    assert made.redeem(ticket, "Room/a", 1029.0) == Grant("alice", frozenset(("subscribe:Room",)), 2000.0)
    with pytest.raises(Unauthenticated):
        made.redeem(ticket, "Room/a", 1029.0)


def test_a_ticket_ends_soon_and_with_its_token() -> None:
    """After 30 s, or when the token has ended."""
    made = tickets()
    for until_s, now_s in ((1000.0 + TICKET_S, 1000.0), (2000.0, 1999.0)):
        ticket = made.make(ALICE, "Room/a", now_s).encode()
        with pytest.raises(Unauthenticated):
            made.redeem(ticket, "Room/a", until_s)
        made.redeem(ticket, "Room/a", until_s - 0.1)


def test_a_ticket_that_was_changed_is_none() -> None:
    """Any byte of it; another node's too; and what is no ticket at all."""
    made = tickets()
    ticket = made.make(ALICE, "Room/a", 1000.0)
    raw = bytearray(base64.urlsafe_b64decode(ticket + "=" * (-len(ticket) % 4)))
    forged = [b"", b"?", b"a", b"AAAA", b"\xff", ticket.encode()[:-4], b"A" * 5000]
    for at in range(len(raw)):
        changed = bytes(raw[:at]) + bytes([raw[at] ^ 1]) + bytes(raw[at + 1 :])
        forged.append(base64.urlsafe_b64encode(changed).rstrip(b"="))
    for each in forged:
        with pytest.raises(Unauthenticated):
            made.redeem(each, "Room/a", 1000.0)
    with pytest.raises(Unauthenticated):
        Tickets(b"other", lambda: "0").redeem(ticket.encode(), "Room/a", 1000.0)
    made.redeem(ticket.encode(), "Room/a", 1000.0)


def test_used_tickets_are_bounded_and_forgotten() -> None:
    """Over the bound none is taken; those whose time is over make room."""
    made = tickets(used_max=2)
    for _ in range(2):
        made.redeem(made.make(ALICE, "Room/a", 1000.0).encode(), "Room/a", 1000.0)
    with pytest.raises(Overloaded):
        made.redeem(made.make(ALICE, "Room/a", 1001.0).encode(), "Room/a", 1001.0)
    made.redeem(made.make(ALICE, "Room/a", 1030.0).encode(), "Room/a", 1030.0)
    assert len(made._used) == 1


# Keys


def jwk(kid: str | None, bits: int = 2048, **more: Any) -> dict[str, Any]:
    key = rsa.generate_private_key(public_exponent=65537, key_size=bits).public_key()
    told: dict[str, Any] = RSAAlgorithm.to_jwk(key, as_dict=True)
    return told | ({} if kid is None else {"kid": kid}) | more


def test_only_public_keys_for_signatures_count() -> None:
    """Shared secrets, private keys, those for encryption, weak or nameless ones,
    and two of one name do not.
    """
    good = jwk("good")
    listed = [
        good,
        jwk(None),
        jwk("weak", bits=1024),
        {**good, "kid": "for-encryption", "use": "enc"},
        {**good, "kid": "private", "d": "AQAB"},
        {**good, "kid": "twice"},
        {**good, "kid": "twice"},
        {**good, "kid": "thrice"},
        {**good, "kid": "thrice"},
        {**good, "kid": "thrice"},
        {**good, "kid": "other", "alg": "PS256"},
        {**good, "kid": "unknown", "alg": "none"},
        {"kty": "oct", "kid": "secret", "k": "AAAA"},
        {"kty": "oct", "kid": "secret", "k": "AAAA", "alg": "RS256"},
        {"kty": "?", "kid": "odd"},
        "nonsense",
    ]
    text = json.dumps({"keys": listed}).encode()
    assert list(keys_in(text, ("RS256",))) == ["good"]
    assert keys_in(text, ("ES256",)) == {}
    for wrong in (b"", b"[]", b'{"keys": 5}', b"<html>"):
        with pytest.raises(ValueError, match=r"JSON|key set"):
            keys_in(wrong, ("RS256",))


class Issuer:
    """A key set that can be changed or taken away, on a clock that is moved."""

    def __init__(self) -> None:
        self.kids: list[str] | None = ["a"]
        self.fetched = 0
        self.now_s = 0.0
        self._one = jwk("a")
        self.keyring = Keyring(self.load, ("RS256",), lambda: self.now_s)

    async def load(self) -> bytes:
        self.fetched += 1
        await asyncio.sleep(0)
        if self.kids is None:
            raise OSError("nobody answers")
        return json.dumps({"keys": [{**self._one, "kid": kid} for kid in self.kids]}).encode()

    async def found(self, kid: str) -> str:
        """What comes of a token by this key."""
        if (waits := self.keyring.wanted(kid)) is not None:
            await asyncio.wait((waits,))
        try:
            self.keyring.find(kid)
        except (Unauthenticated, Unavailable) as error:
            return error.code
        return "found"


def told(story: Callable[[Issuer], Any]) -> None:
    asyncio.run(story(Issuer()))


def test_unknown_key_ids_cannot_make_us_fetch() -> None:
    """However many ask for whatever: one fetch serves those that wait, the next comes after the interval."""

    async def run(issuer: Issuer) -> None:
        asked = [issuer.found("a"), *(issuer.found(f"x{n}") for n in range(50))]
        assert await asyncio.gather(*asked) == ["found", *["unauthenticated"] * 50]
        assert issuer.fetched == 1
        for _ in range(20):
            assert await issuer.found("b") == "unauthenticated"
        assert issuer.fetched == 1
        issuer.kids, issuer.now_s = ["a", "b"], MIN_INTERVAL_S
        assert await issuer.found("b") == "found"
        assert issuer.fetched == 2

    told(run)


def test_without_keys_nobody_is_let_in_and_nobody_refused() -> None:
    """Unavailable, until they can be had; an unknown key id while they cannot is not known to be wrong."""

    async def run(issuer: Issuer) -> None:
        issuer.kids = None
        assert await issuer.found("a") == "unavailable"
        issuer.kids = ["a"]
        assert await issuer.found("a") == "unavailable"  # not asked again yet
        assert issuer.fetched == 1
        issuer.now_s = MIN_INTERVAL_S
        assert await issuer.found("a") == "found"
        issuer.kids, issuer.now_s = None, 3 * MIN_INTERVAL_S
        assert await issuer.found("b") == "unavailable"
        assert await issuer.found("a") == "found"

    told(run)


def test_keys_are_fetched_anew_and_end() -> None:
    """Old ones are used while new ones are fetched; those the issuer took back go;
    very old ones do not count.
    """

    async def run(issuer: Issuer) -> None:
        assert await issuer.found("a") == "found"
        issuer.kids, issuer.now_s = ["b"], FRESH_S
        assert issuer.keyring.wanted("a") is None  # it is known, and being fetched
        assert await issuer.found("b") == "found"
        assert await issuer.found("a") == "unauthenticated"
        issuer.kids, issuer.now_s = None, FRESH_S + STALE_S
        assert await issuer.found("b") == "unavailable"
        await issuer.keyring.close()

    told(run)


# The configuration


def test_a_configuration_with_access() -> None:
    """Tokens, an issuer and quotas as they stand in a file; the file of keys starts
    at the configuration's folder.
    """
    text = TOKENS + (
        'expires = 2030-01-01T00:00:00Z\n[jwt]\nissuer = "i"\naudience = "a"\njwks_file = "keys.json"\n'
        '[quotas."*"]\nrequests_per_s = 5.0\n[quotas.shop]\nrequests_per_s = 1\nburst = 3\n'
    )
    config = parse_config(text, "/etc/app/perdure.toml")
    assert config.guarded
    assert config.tokens[0].grant == Grant(
        "shop", frozenset(("call:Cart", "metrics")), 1893456000.0, 1893456000.0
    )
    assert config.jwt is not None
    assert config.jwt.jwks_file == "/etc/app/keys.json"
    assert config.quotas["shop"].burst == 3
    assert not Config().guarded
    environ = {"PERDURE_TOKEN": "pdr_x", "PERDURE_URL": "http://x"}  # for `perdure call` in the same shell
    assert parse_config(TOKENS, "perdure.toml", environ=environ).guarded


JWT = '[jwt]\nissuer = "i"\naudience = "a"\n'


@pytest.mark.parametrize(
    ("text", "part"),
    [
        (TOKENS.replace("shop", "@shop"), "principal"),
        (TOKENS.replace(HASH, "pdr_x"), "sha256"),
        (TOKENS.replace("metrics", "metric"), "not a scope"),
        (TOKENS.replace("call:Cart", "call:"), "not a scope"),
        (TOKENS.replace("scopes", "scope"), 'did you mean "tokens\\[0\\].scopes"'),
        (TOKENS + "expires = 2030-01-01T00:00:00\n", "time zone"),
        (TOKENS + TOKENS, 'two tokens have the name "shop"'),
        (TOKENS + TOKENS.replace("shop", "other"), "two tokens have the sha256"),
        (JWT, "either jwks_url"),
        (JWT + 'jwks_file = "x"\njwks_url = "https://x/y"', "either jwks_url"),
        (JWT + 'jwks_url = "http://issuer.example/keys"', "https"),
        (JWT + 'jwks_url = "https://me:pw@issuer.example/keys"', "not the address"),
        (JWT + 'jwks_file = "x"\nalgorithms = ["HS256"]', "RS256"),
        (JWT + 'jwks_file = "x"\nalgorithms = ["none"]', "RS256"),
        (JWT + 'jwks_file = "x"\nalgorithms = []', "algorithms"),
        (JWT + 'jwks_file = "x"\nissuers = "x"', "did you mean"),
        ('[quotas."*"]\nrequests_per_s = 5.0', "quotas count by principal"),
        (TOKENS + '[quotas."*"]\nrequests_per_s = 0.0', "greater than 0"),
    ],
)
def test_a_configuration_that_would_let_in_the_wrong_ones_is_refused(text: str, part: str) -> None:
    """The error names the key and what is wrong."""
    with pytest.raises(ConfigError, match=part):
        parse_config(text, "perdure.toml")


def test_a_public_address_needs_guarded_access() -> None:
    """Without tokens it is refused, and the text says what helps; with them it can be bound."""
    with pytest.raises(ConfigError, match=r"\[\[tokens\]\]"):
        server.bind(Config(host="0.0.0.0", port=0))
    tokens = parse_config(TOKENS, "perdure.toml").tokens
    server.bind(Config(host="0.0.0.0", port=0, tokens=tokens)).close()


# The log


class Thing(DurableObject):
    async def add(self) -> int:
        count: int = await self.state.get("count", 0) + 1
        await self.state.put("count", count)
        return count


BODY = b'{"method":"add"}'


def test_a_record_from_outside_says_no_principal() -> None:
    """Without the app's seal a principal makes it no command, whatever the name; under it, it is believed."""
    for name in (b"alice", b"@Thing/a"):
        with pytest.raises(MalformedCommand, match="only perdure itself"):
            parse_command(
                b"Thing/a", BODY, (("perdure-kind", b"call"), ("perdure-principal", name)), Seal("app-uuid")
            )
    headers = Seal("app-uuid").sealed(
        b"Thing/a", BODY, (("perdure-kind", b"call"), ("perdure-principal", b"alice"))
    )
    assert parse_command(b"Thing/a", BODY, headers, Seal("app-uuid")).principal == "alice"


def test_on_a_shared_log_a_forged_principal_is_a_dead_letter_and_a_doors_own_counts() -> None:
    """What anybody may write changes nothing; the door's command comes back by the log with its principal."""

    async def run(harness: OneOwner) -> None:
        headers = (("perdure-kind", b"call"), ("id", b"forged"), ("perdure-principal", b"alice"))
        harness.log.append(Topic.COMMANDS, 0, Record(b"Thing/a", BODY, headers))
        gateway = Gateway(harness.log, node="n", deadline_s=5, clock_ms=harness.clock_ms, seal=UNSEALED)
        await gateway.start([harness.owner])
        waiting = ReplyFuture()
        gateway.submit(waiting, "Thing/a", CALL, "add", body=BODY, client_key="k", principal="alice")
        answer = await waiting.future
        assert answer.reply.body == b'{"result":1}'
        spent = harness.owner.tables.spent_keys.get("Thing/a", "alice", "k")
        assert spent is not None
        assert harness.owner.tables.spent_keys.get("Thing/a", "", "k") is None
        assert harness.owner.counts.dead == 1
        gateway.close(Unavailable("over"))

    story(Thing, run, shared=True)


def test_a_command_with_a_principal_is_internal() -> None:
    """So that it is never written without the seal that it would be refused for the lack of."""
    assert Command("Thing/a", CALL, "add", principal="alice").internal
    assert not Command("Thing/a", CALL, "add").internal
