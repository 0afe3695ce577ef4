"""One broker with every kind of listener that perdure connects to: TLS, SASL,
client certificates, and an authorizer.

Its certificates are made for the name `localhost`; at 127.0.0.1 they are those of another name.
"""

from __future__ import annotations

import base64
import datetime
import json
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.kafka import LocalKafka, free_ports

USER, PASSWORD = "perdure", "correct-horse-9"
CLIENT, CLIENT_PASSWORD = "website", "battery-staple-7"
KEY_PASSWORD = "locked-key-3"
ADVERTISED = ("SASL_PLAINTEXT", "SASL_SSL", "SSL")


class Authority:
    """A certificate authority, with its certificate in `ca.pem` of a folder."""

    def __init__(self, folder: Path, name: str = "authority") -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        self._cert = self._signed(self._name, self._key.public_key(), ca=True)
        self.file = folder / "ca.pem"
        self.file.write_bytes(self._cert.public_bytes(serialization.Encoding.PEM))

    def issue(self, name: str, *names: str, password: str = "", expired: bool = False) -> tuple[Path, Path]:
        """A certificate with the subject `name`, valid for these host names, and its key, each in a file."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        cert = self._signed(subject, key.public_key(), names, expired=expired)
        locked = (
            serialization.BestAvailableEncryption(password.encode())
            if password
            else serialization.NoEncryption()
        )
        files = self.folder / f"{name}.pem", self.folder / f"{name}.key"
        files[0].write_bytes(cert.public_bytes(serialization.Encoding.PEM))
        files[1].write_bytes(
            key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, locked)
        )
        return files

    def _signed(
        self,
        subject: x509.Name,
        key: ec.EllipticCurvePublicKey,
        names: tuple[str, ...] = (),
        *,
        ca: bool = False,
        expired: bool = False,
    ) -> x509.Certificate:
        now, day = datetime.datetime.now(datetime.UTC), datetime.timedelta(days=1)
        made = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self._name)
            .public_key(key)
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - 3 * day)
            .not_valid_after(now - day if expired else now + day)
            .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        )
        if names:
            made = made.add_extension(x509.SubjectAlternativeName([x509.DNSName(n) for n in names]), False)
        return made.sign(self._key, hashes.SHA256())


class GuardedKafka(LocalKafka):
    """The broker. `at` has the address of each listener by its protocol; the plain
    one is the administrator's.
    """

    at: dict[str, str]

    def _configure(self, node: int, extra: Mapping[str, str]) -> None:
        super()._configure(node, extra)
        self.authority = Authority(self.directory / "pki")
        cert, key = self.authority.issue("broker", "localhost")
        store = self.directory / "pki" / "keystore.pem"
        store.write_bytes(key.read_bytes() + cert.read_bytes())
        self.at = {
            name: f"localhost:{port}"
            for name, port in zip(ADVERTISED, free_ports(len(ADVERTISED)), strict=True)
        }
        listeners = "".join(
            f",{name}://127.0.0.1:{each.rpartition(':')[2]}" for name, each in self.at.items()
        )
        advertised = "".join(f",{name}://{each}" for name, each in self.at.items())
        config = self._config(node)
        lines = [
            line
            + (
                listeners
                if line.startswith("listeners=")
                else advertised
                if line.startswith("advertised.listeners=")
                else ""
            )
            for line in config.read_text().splitlines()
        ]
        login = "org.apache.kafka.common.security"
        plain = f'{login}.plain.PlainLoginModule required user_{USER}="{PASSWORD}";'
        settings = {
            "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT,SSL:SSL,"
            "SASL_PLAINTEXT:SASL_PLAINTEXT,SASL_SSL:SASL_SSL",
            "ssl.keystore.type": "PEM",
            "ssl.keystore.location": str(store),
            "ssl.truststore.type": "PEM",
            "ssl.truststore.location": str(self.authority.file),
            "listener.name.ssl.ssl.client.auth": "required",
            "listener.name.ssl.ssl.principal.mapping.rules": "RULE:^CN=(.*?)$/$1/",
            "listener.name.sasl_plaintext.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-256,SCRAM-SHA-512,OAUTHBEARER",
            "listener.name.sasl_ssl.sasl.enabled.mechanisms": "PLAIN,SCRAM-SHA-512",
            "authorizer.class.name": "org.apache.kafka.metadata.authorizer.StandardAuthorizer",
            "super.users": "User:ANONYMOUS",
        }
        for listener in ("sasl_plaintext", "sasl_ssl"):
            name = f"listener.name.{listener}"
            settings[f"{name}.plain.sasl.jaas.config"] = plain
            for scram in ("scram-sha-256", "scram-sha-512"):
                settings[f"{name}.{scram}.sasl.jaas.config"] = f"{login}.scram.ScramLoginModule required;"
        settings["listener.name.sasl_plaintext.oauthbearer.sasl.jaas.config"] = (
            f"{login}.oauthbearer.OAuthBearerLoginModule required;"
        )
        lines += [f"{name}={value}" for name, value in settings.items()]
        config.write_text("\n".join(lines) + "\n")

    def _format(self, cluster: str) -> None:
        command = [*self._java(), "kafka.tools.StorageTool", "format", "-t", cluster, "-c"]
        command += [str(self._config(1))]
        for mechanism in ("SCRAM-SHA-256", "SCRAM-SHA-512"):
            for user, password in ((USER, PASSWORD), (CLIENT, CLIENT_PASSWORD)):
                command += ["--add-scram", f"{mechanism}=[name={user},password={password}]"]
        subprocess.run(command, check=True, capture_output=True)


def unsecured_token(subject: str, life_s: int = 3600) -> str:
    """A token of OAUTHBEARER as a broker accepts it that was not given an issuer: it bears no signature."""
    now = int(time.time())
    parts = ({"alg": "none"}, {"sub": subject, "iat": now, "exp": now + life_s})
    encoded = (base64.urlsafe_b64encode(json.dumps(part).encode()).decode().rstrip("=") for part in parts)
    return f"{'.'.join(encoded)}."
