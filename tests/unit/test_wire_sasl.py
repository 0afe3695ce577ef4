"""Authentication and rights of Kafka clients: nothing without a token, and what is not granted is denied."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.wire_client import COMMANDS, JOURNAL, REPLIES, Client, Listening, batch, fetch_of, run

from perdure.api.access.guard import Access
from perdure.api.access.kafka_admission import KafkaAdmission
from perdure.api.access.quotas import Quotas
from perdure.api.access.tickets import Tickets
from perdure.schemas.access import Quota, Token, token_hash
from perdure.schemas.scram import HASHES, client_knows, parse_verifier, server_signature, verifier_of
from perdure.streams.log.base import Record, Topic, durable
from perdure.streams.wire.errors import Code

SECRET = b"pdr_secret"
SCOPES = {
    "caller": ("call:K",),
    "reader": ("read:*",),
    "all": ("call:*", "read:*"),
    "admin": ("admin",),
    "nothing": ("read:K", "metrics"),
}


def token_of(name: str) -> bytes:
    return SECRET + name.encode()


def guarded(
    quotas: dict[str, Quota] | None = None, now_s: Callable[[], float] = lambda: 1_000.0
) -> KafkaAdmission:
    """Access control with a token for each of `SCOPES`."""
    tokens = [
        Token(
            name=name,
            sha256=token_hash(token_of(name)),
            scopes=scopes,
            scram=tuple(str(verifier_of(each, token_of(name), b"salt-" + name.encode())) for each in HASHES),
        )
        for name, scopes in SCOPES.items()
    ]
    access = Access(tokens, None, Quotas(quotas or {}), Tickets(b"x" * 32, lambda: "id"), clock_s=now_s)
    return KafkaAdmission(access, tokens)


async def plain(one: Listening, name: str, token: bytes | None = None) -> Client:
    """A connection that has authenticated by PLAIN, or tried to."""
    client = await one.connect()
    assert (await client.ask("SaslHandshake", 1, mechanism="PLAIN"))["error"] == 0
    data = b"\x00" + name.encode() + b"\x00" + (token_of(name) if token is None else token)
    response = await client.ask("SaslAuthenticate", 2, data=data)
    assert response["error"] == (0 if token is None else Code.SASL_AUTHENTICATION_FAILED)
    return client


async def scram(one: Listening, mechanism: str, name: str, token: bytes) -> tuple[Client, int]:
    """A connection that has tried to authenticate by SCRAM, as RFC 5802 has it, and the error."""
    client, digest = await one.connect(), HASHES[mechanism]
    assert (await client.ask("SaslHandshake", 1, mechanism=mechanism))["error"] == 0
    bare = f"n={name},r=nonce"
    first = (await client.ask("SaslAuthenticate", 1, data=b"n,," + bare.encode()))["data"]
    fields = dict(part.split("=", 1) for part in first.decode().split(","))
    assert fields["r"].startswith("nonce")
    salted = hashlib.pbkdf2_hmac(digest, token, base64.b64decode(fields["s"]), int(fields["i"]))
    client_key = hmac.digest(salted, b"Client Key", digest)
    unproved = f"c=biws,r={fields['r']}"
    signed = f"{bare},{first.decode()},{unproved}".encode()
    signature = hmac.digest(hashlib.new(digest, client_key).digest(), signed, digest)
    proof = base64.b64encode(bytes(a ^ b for a, b in zip(client_key, signature, strict=True)))
    response = await client.ask("SaslAuthenticate", 1, data=unproved.encode() + b",p=" + proof)
    if not response["error"]:
        server_key = hmac.digest(salted, b"Server Key", digest)
        assert response["data"] == b"v=" + base64.b64encode(hmac.digest(server_key, signed, digest))
    code: int = response["error"]
    return client, code


def test_the_example_of_rfc_7677_fits() -> None:
    """A verifier accepts the proof there, and signs as its server does."""
    verifier = verifier_of("SCRAM-SHA-256", b"pencil", base64.b64decode("W22ZaJ0SNY7soEsUEjb6gQ=="))
    nonce = "rOprNGfwEbeRWgbNEkqO%hvYDpWUa2RaTCAfuxFIlj)hNlF$k0"
    message = (
        f"n=user,r=rOprNGfwEbeRWgbNEkqO,r={nonce},s=W22ZaJ0SNY7soEsUEjb6gQ==,i=4096,c=biws,r={nonce}"
    ).encode()
    proof = base64.b64decode("dHzbZapWIk4jUhN+Ute9ytag9zjfMHgsqmmiz7AndVQ=")
    assert client_knows(verifier, message, proof)
    assert not client_knows(verifier, message + b"x", proof)
    assert not client_knows(verifier, message, proof[:-1])
    assert (
        base64.b64encode(server_signature(verifier, message))
        == b"6rriTRBi23WpRR/wtup+mMhUZUn/dB5nLTJRsjl95G4="
    )
    assert parse_verifier(str(verifier)) == verifier


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "SCRAM-SHA-1$4096:YQ==$YQ==:YQ==",
        "SCRAM-SHA-256$1:YQ==$YQ==:YQ==",
        "SCRAM-SHA-256$4096:YQ==$YQ==:YQ==",
    ],
)
def test_what_is_not_a_verifier_is_refused(text: str) -> None:
    """A mechanism that is not known, too few iterations, keys of another length."""
    with pytest.raises(ValueError, match="token create --scram"):
        parse_verifier(text)


@pytest.mark.parametrize("mechanism", HASHES)
def test_scram_lets_in_those_that_know_the_token(tmp_path: Path, mechanism: str) -> None:
    """Another token, an unknown name and a broken proof are one error; then the connection is closed."""

    async def test(one: Listening) -> None:
        client, code = await scram(one, mechanism, "all", token_of("all"))
        assert code == 0
        assert (await client.ask("Metadata", 9, topics=[]))["topics"] == []
        for name, token in (("all", token_of("admin")), ("nobody", token_of("nobody"))):
            client, code = await scram(one, mechanism, name, token)
            assert code == Code.SASL_AUTHENTICATION_FAILED
            assert await client.is_closed()

    run(tmp_path, test, admission=guarded())


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"n,,",
        b"p=tls-unique,,n=all,r=x",
        b"n,a=admin,n=all,r=x",
        b"n,,m=ext,n=all,r=x",
        b"n,,n=all,r=",
        b"\xff\xff,,\xff",
        b"n,,n=all,r=x,r=y" * 500,
    ],
)
def test_scram_that_makes_no_sense_is_refused(tmp_path: Path, data: bytes) -> None:
    """Whatever is wrong with the first message."""

    async def test(one: Listening) -> None:
        client = await one.connect()
        await client.ask("SaslHandshake", 1, mechanism="SCRAM-SHA-256")
        response = await client.ask("SaslAuthenticate", 1, data=data)
        if response["error"] == 0:
            response = await client.ask("SaslAuthenticate", 1, data=b"c=biws,r=x,p=AAAA")
        assert response["error"] == Code.SASL_AUTHENTICATION_FAILED
        assert await client.is_closed()

    run(tmp_path, test, admission=guarded())


def test_plain_takes_a_name_with_its_token(tmp_path: Path) -> None:
    """Nothing else: the token of another name, no token, more parts."""

    async def test(one: Listening) -> None:
        client = await plain(one, "all")
        assert (await client.ask("Metadata", 9, topics=[]))["topics"] == []
        for token in (b"", b"pdr_wrong", token_of("admin"), token_of("all") + b"\x00more"):
            assert await (await plain(one, "all", token)).is_closed()
        client = await one.connect()
        wrong = await client.ask("SaslHandshake", 1, mechanism="GSSAPI")
        assert (wrong["error"], set(wrong["mechanisms"])) == (33, {"PLAIN", *HASHES})
        early = await client.ask("SaslAuthenticate", 2, data=b"\x00all\x00" + token_of("all"))
        assert early["error"] == Code.ILLEGAL_SASL_STATE

    run(tmp_path, test, admission=guarded())


def test_nothing_is_answered_before_authentication(tmp_path: Path) -> None:
    """But for the versions, and the exchange itself; a frame may not be large."""

    async def test(one: Listening) -> None:
        for name, version in (
            ("Metadata", 9),
            ("Produce", 8),
            ("Fetch", 12),
            ("JoinGroup", 6),
            ("CreateTopics", 4),
        ):
            client = await one.connect()
            keys = {each["key"] for each in (await client.ask("ApiVersions", 3, software_name="x"))["apis"]}
            assert {17, 36} <= keys
            client.send(name, version, {})
            assert await client.is_closed()
        client = await one.connect()
        client.raw((65 * 1024).to_bytes(4, "big") + b"\x00\x24\x00\x02")
        assert await client.is_closed()
        assert (await one.log.bounds(Topic.COMMANDS, 0)).end == 0

    run(tmp_path, test, admission=guarded())


@pytest.mark.parametrize("name", SCOPES)
def test_rights(tmp_path: Path, name: str) -> None:
    """Each request, by each kind of token."""
    denied = Code.TOPIC_AUTHORIZATION_FAILED
    calls, reads, admin = name in ("caller", "all"), name in ("reader", "all", "admin"), name == "admin"

    async def test(one: Listening) -> None:
        client = await plain(one, name)
        await durable(one.listener.broker.log.create("mine", 1, compacted=False))
        await durable(one.log.append(Topic.REPLIES, 0, Record(b"k", b"v")))
        assert (await client.produce(batch(b"x", key=b"K/a")))["error"] == (0 if calls else denied)
        for key in (b"L/a", None, b"K"):
            assert (await client.produce(batch(b"x", key=key)))["error"] == (0 if name == "all" else denied)
        assert (await client.produce(batch(b"x"), topic="mine"))["error"] == (0 if name == "all" else denied)
        for topic in (JOURNAL, REPLIES):
            assert (await client.produce(batch(b"x"), topic=topic))["error"] == denied
        for topic in (REPLIES, "mine"):
            assert (await client.fetch(topic, 0, 0))["error"] == (0 if reads else denied)
        for topic in (JOURNAL, COMMANDS, "app.dead"):
            assert (await client.fetch(topic, 0, 0))["error"] == (0 if admin else denied)
        listed = {each["name"] for each in (await client.ask("Metadata", 9, topics=None))["topics"]}
        more = {REPLIES, "mine"} if reads else set()
        assert listed == {COMMANDS} | more | ({JOURNAL, "app.dead"} if admin else set())
        asked = [{"name": JOURNAL, "partitions": [{"index": 0, "current_leader_epoch": 0, "timestamp": -1}]}]
        offsets = await client.ask("ListOffsets", 5, topics=asked)
        assert offsets["topics"][0]["partitions"][0]["error"] == (0 if admin else denied)
        topic_ = {"name": "new", "partitions": 1, "replication_factor": 1, "assignments": [], "configs": []}
        made = await client.ask("CreateTopics", 4, topics=[topic_], timeout_ms=1)
        assert made["topics"][0]["error"] == (0 if admin else Code.CLUSTER_AUTHORIZATION_FAILED)
        group = 0 if reads else Code.GROUP_AUTHORIZATION_FAILED
        listed_groups = await client.ask("ListGroups", 4, states=[])
        assert listed_groups["error"] == group
        joined = await client.ask(
            "JoinGroup",
            2,
            group="g",
            session_timeout_ms=6000,
            protocol_type="consumer",
            protocols=[{"name": "range", "metadata": b""}],
        )
        assert joined["error"] == group
        fetched = await client.ask("OffsetFetch", 7, group="g", topics=None)
        assert fetched["error"] == group
        part = {"index": 0, "offset": 1, "metadata": ""}
        committed = await client.ask(
            "OffsetCommit", 7, group="h", generation=-1, topics=[{"name": REPLIES, "partitions": [part]}]
        )
        assert committed["topics"][0]["partitions"][0]["error"] == group

    run(tmp_path, test, admission=guarded())


def test_a_token_that_expires_ends_its_connections(tmp_path: Path) -> None:
    """At the next request, and clients learn when that will be."""
    now = [1_000.0]
    token = Token(name="brief", sha256=token_hash(SECRET), scopes=("read:*",))
    token = token.model_validate(token.model_dump() | {"expires": "1970-01-01T00:20:00Z"}, strict=False)
    access = Access([token], None, Quotas({}), Tickets(b"x" * 32, lambda: "id"), clock_s=lambda: now[0])

    async def test(one: Listening) -> None:
        client = await one.connect()
        await client.ask("SaslHandshake", 1, mechanism="PLAIN")
        response = await client.ask("SaslAuthenticate", 2, data=b"\x00brief\x00" + SECRET)
        assert (response["error"], response["session_lifetime_ms"]) == (0, 200_000)
        assert (await client.ask("Metadata", 9, topics=[]))["topics"] == []
        now[0] = 1_200.0
        client.send("Metadata", 9, {"topics": []})
        assert await client.is_closed()

    run(tmp_path, test, admission=KafkaAdmission(access, [token]), clock_ms=lambda: int(now[0] * 1000))


def test_a_quota_slows_a_producer_down(tmp_path: Path) -> None:
    """It waits for room, with nothing refused and nothing out of order; others go on."""

    async def test(one: Listening) -> None:
        client, other = await plain(one, "caller"), await plain(one, "all")
        for n in range(3):
            parts = [{"index": 0, "records": batch(*[b"%d" % n] * 10)}]
            topics = [{"name": COMMANDS, "partitions": parts}]
            client.send("Produce", 8, {"acks": -1, "timeout_ms": 1, "topics": topics})
        assert (await other.produce(batch(b"x"), partition=1))["error"] == 0
        stream = one.listener.broker.log.stream(Topic.COMMANDS, 0)
        assert stream.next <= 10  # a token of the bucket takes a tenth of a second
        for n in range(3):
            _, response = await client.receive("Produce", 8)
            assert response["topics"][0]["partitions"][0]["base_offset"] == 10 * n

    quota = Quota(requests_per_s=10, burst=15)
    run(tmp_path, test, admission=guarded({"caller": quota}))


def test_fetches_wait_for_those_that_may_read(tmp_path: Path) -> None:
    """One without the right is answered at once, not after the wait."""

    async def test(one: Listening) -> None:
        client = await plain(one, "caller")
        client.send("Fetch", 11, fetch_of(REPLIES, 0, 0, wait_ms=50_000))
        _, response = await client.receive("Fetch", 11)
        assert response["topics"][0]["partitions"][0]["error"] == Code.TOPIC_AUTHORIZATION_FAILED

    run(tmp_path, test, admission=guarded())
