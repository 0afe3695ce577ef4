"""Why brokers cannot be used: one connection per address, as the clients make it, shows what is wrong.

A client reports the same "unable to bootstrap" for a dead port, a listener that speaks TLS, one that requires
SASL, and a wrong password. `diagnose` connects with the log's own settings and names the setting that does
not fit.

Laws
- Secrets are sent only as the clients send them. Where they do not get that far, two requests that hold no
  secret (ApiVersions, Metadata) show what listens at the address. [test_kafka_listeners.py]
"""

from __future__ import annotations

import asyncio
import ssl
import struct
from typing import Any, NamedTuple

from aiokafka.conn import create_conn
from aiokafka.errors import (
    IllegalSaslStateError,
    KafkaError,
    SaslAuthenticationFailed,
    UnsupportedSaslMechanismError,
)
from aiokafka.protocol.metadata import MetadataRequest

from perdure.schemas.errors import ConfigError, LogUnreachable
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.security import TokenUnavailable

PROBE_S = 2.0
TLS_RECORD = b"\x15\x03"  # an alert, in any version
HOSTNAME_MISMATCH, ADDRESS_MISMATCH, EXPIRED, NOT_YET_VALID = 62, 64, 10, 9  # OpenSSL's X509_V_ERR_…
UNKNOWN_AUTHORITY = (2, 18, 19, 20, 21)
_API_VERSIONS, _METADATA = 18, 3
_LARGEST = 1 << 20  # of an answer that is one
_GENERAL = (
    "Check that the brokers run, that the address is one they listen on, and that this host can reach the addresses they "
    "advertise."
)
_NEEDS_TLS = 'set kafka.security_protocol to "SSL", or to "SASL_SSL" if it asks for a user, or name a PLAINTEXT listener'
_NEEDS_SASL = 'set kafka.security_protocol to "{}", kafka.sasl_mechanism, and user and password, or name another listener'


class Diagnosis(NamedTuple):
    """The fault of a broker or of the settings, and what to do. `certain`: the settings do not fit, so
    that trying again does not help.
    """

    text: str
    certain: bool = False


class _Misfit(Exception):
    """The settings do not fit what listens there."""


async def diagnose(endpoint: Endpoint) -> Diagnosis:
    """Why the brokers at an endpoint cannot be used; what is wrong with the first that has a fault."""
    brokers = [_address(each) for each in endpoint.bootstrap.split(",")]
    seen = set(brokers)
    for host, port in brokers:  # it grows by the addresses that brokers advertise
        try:
            async with asyncio.timeout(2 * PROBE_S):
                advertised = await _use(host, port, endpoint)
        except _Misfit as error:
            return Diagnosis(f"{host}:{port} {error}", certain=True)
        except TimeoutError:
            return Diagnosis(
                f"{host}:{port} accepts connections but answers nothing: it is not a broker, or it hangs"
            )
        except OSError as error:
            return Diagnosis(f"{host}:{port} takes no connection ({error.strerror or error!r}). {_GENERAL}")
        except KafkaError as error:
            return Diagnosis(f"{host}:{port}: {error!r}. {_GENERAL}")
        brokers += [each for each in advertised if each not in seen]
        seen.update(advertised)
    return Diagnosis(_GENERAL)


async def unreachable(endpoint: Endpoint, error: BaseException) -> ConfigError | LogUnreachable:
    """The error an operator sees if a client cannot start; `error` is one of `UNREACHED`."""
    diagnosis = await diagnose(endpoint)
    if diagnosis.certain:
        return ConfigError(f"Kafka at {endpoint.bootstrap} cannot be used: {diagnosis.text}")
    return LogUnreachable(f"Kafka at {endpoint.bootstrap}: {error!r}. {diagnosis.text}")


def _address(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    return host.strip("[]"), int(port)


async def _use(host: str, port: int, endpoint: Endpoint) -> list[tuple[str, int]]:
    """The addresses that a broker advertises. Raises `_Misfit`, `TimeoutError`, `OSError`, `KafkaError`."""
    security = endpoint.security
    protocol = security.get("security_protocol", "PLAINTEXT")
    try:
        connection = await create_conn(
            host, port, client_id="perdure-probe", request_timeout_ms=int(PROBE_S * 1000), **security
        )
    except ssl.SSLCertVerificationError as error:
        raise _Misfit(_of_certificate(error, host)) from None
    except UnsupportedSaslMechanismError:
        mechanism = security.get("sasl_mechanism")
        raise _Misfit(
            f"does not offer {mechanism}: set kafka.sasl_mechanism to one of its sasl.enabled.mechanisms"
        ) from None
    except IllegalSaslStateError:
        plain = "SSL" if protocol == "SASL_SSL" else "PLAINTEXT"
        raise _Misfit(f'does not ask for SASL: set kafka.security_protocol to "{plain}"') from None
    except TokenUnavailable as error:
        raise _Misfit(f"was reached, but the token that it asks for was not: {error}") from None
    except SaslAuthenticationFailed:
        raise _Misfit(_of_login(security)) from None
    except (ssl.SSLError, ConnectionError, KafkaError, EOFError) as error:
        raise await _seen_from_outside(host, port, security, error) from None
    try:
        response: Any = await connection.send(MetadataRequest([]))
    except (KafkaError, ConnectionError) as error:
        raise await _seen_from_outside(host, port, security, error) from None
    finally:
        connection.close()
    return [(broker[1], broker[2]) for broker in response.brokers]


def _of_certificate(error: ssl.SSLCertVerificationError, host: str) -> str:
    if error.verify_code in (HOSTNAME_MISMATCH, ADDRESS_MISMATCH):
        return (
            f"has a certificate of another name ({error.verify_message}): reach it by a name that is in the "
            f"certificate (its subjectAltName), also in advertised.listeners, or have {host} put into the certificate"
        )
    if error.verify_code in (EXPIRED, NOT_YET_VALID):
        return f"has a certificate that is not valid now ({error.verify_message}): renew it, or set the clock right"
    if error.verify_code not in UNKNOWN_AUTHORITY:
        return (
            f"has a certificate that is refused ({error.verify_message}): have it made again by its authority"
        )
    return (
        f"has a certificate of an authority that is not known here ({error.verify_message}): set kafka.ca_file to the "
        "certificate of the authority that signed it"
    )


def _of_login(security: Any) -> str:
    mechanism = security.get("sasl_mechanism")
    if mechanism == "OAUTHBEARER":
        return "refuses the token (OAUTHBEARER): check where it is from (kafka.token_file, token_command or oauth_url)"
    return (
        f"refuses user {security.get('sasl_plain_username')!r} ({mechanism}): the user is not known there, or the "
        "password is wrong. Check kafka.username, and PERDURE_KAFKA__PASSWORD or kafka.password_file"
    )


async def _seen_from_outside(host: str, port: int, security: Any, error: BaseException) -> Exception:
    """The error for a connection that failed without a reason: what listens there shows it."""
    reason = f"{error!r} {error.__cause__!r}".upper()
    protocol = security.get("security_protocol", "PLAINTEXT")
    if protocol in ("SSL", "SASL_SSL"):
        if "ALERT" in reason and ("UNKNOWN_CA" in reason or "CERTIFICATE" in reason):
            if not getattr(security, "has_certificate", True):
                return _Misfit(
                    "asks for a certificate of this client: set kafka.cert_file and kafka.key_file"
                )
            return _Misfit(
                "refuses the certificate of this client: have kafka.cert_file signed by an authority it trusts"
            )
        if await _speaks_plainly(host, port):
            wanted = "SASL_PLAINTEXT" if protocol == "SASL_SSL" else "PLAINTEXT"
            return _Misfit(
                f'does not speak TLS: set kafka.security_protocol to "{wanted}", or name its TLS listener'
            )
        if "HANDSHAKE_FAILURE" in reason:
            return _Misfit(
                "ends the TLS handshake: it asks for a certificate of this client (kafka.cert_file), or shares no "
                "version or cipher of TLS with it"
            )
    elif text := await _listener(host, port):
        return _Misfit(text)
    return error if isinstance(error, KafkaError | OSError) else KafkaError(repr(error))


async def _speaks_plainly(host: str, port: int) -> bool:
    """True if a request without TLS is answered by a broker."""
    try:
        reader, writer = await asyncio.open_connection(host, port)
        try:
            answer = await _ask(reader, writer, _API_VERSIONS, b"")
        finally:
            writer.close()
    except (OSError, EOFError):
        return False
    return _is_answer(answer)


async def _listener(host: str, port: int) -> str:
    """Why a plain client cannot use what listens there; empty if it is a broker that answers."""
    reader, writer = await asyncio.open_connection(host, port)
    try:
        answer = await _ask(reader, writer, _API_VERSIONS, b"")
        if answer.startswith(TLS_RECORD) or not answer:
            certain = (
                "speaks TLS"
                if answer
                else "closes the connection at the first request, as a TLS listener does"
            )
            return f"{certain}: {_NEEDS_TLS}"
        if not _is_answer(answer):
            return f"does not speak Kafka's protocol: it answers {answer[:20]!r}"
        if not await _ask(reader, writer, _METADATA, struct.pack(">i", 0)):
            return f"asks for SASL: {_NEEDS_SASL.format('SASL_PLAINTEXT')}"
        return ""
    except (ConnectionError, EOFError):
        return f"closes the connection at the first request, as a TLS listener does: {_NEEDS_TLS}"
    finally:
        writer.close()


def _is_answer(answer: bytes) -> bool:
    return len(answer) >= 4 and struct.unpack(">i", answer[:4])[0] in range(4, _LARGEST)


async def _ask(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, api: int, body: bytes) -> bytes:
    """The beginning of the response to a request of version 0 (Metadata: 1); empty
    if the connection was closed.
    """
    head = struct.pack(">hhih", api, 1 if api == _METADATA else 0, 1, 7) + b"perdure"
    writer.write(struct.pack(">i", len(head) + len(body)) + head + body)
    await writer.drain()
    answer = await reader.read(65536)
    if len(answer) >= 4:  # the rest of it, so that the next answer is read from its beginning
        left = struct.unpack(">i", answer[:4])[0] + 4 - len(answer)
        if 0 < left < _LARGEST:
            await reader.readexactly(left)
    return answer
