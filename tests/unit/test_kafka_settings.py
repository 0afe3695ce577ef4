"""The `[kafka]` table: secrets come from the environment or files, and settings
that do not fit together are named.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from perdure.api.telemetry.redact import Scrubber
from perdure.schemas.config import masked, parse_config
from perdure.schemas.errors import ConfigError
from perdure.schemas.kafka import Kafka
from perdure.schemas.secrecy import MASK
from perdure.streams.log.kafka.clients import Endpoint
from perdure.streams.log.kafka.security import security_options
from perdure.streams.rebuild.worker import Job

SASL = {"PERDURE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL", "PERDURE_KAFKA__SASL_MECHANISM": "PLAIN"}
LOGIN = SASL | {"PERDURE_KAFKA__USERNAME": "perdure", "PERDURE_KAFKA__PASSWORD": "hush-hush"}
OAUTH = SASL | {"PERDURE_KAFKA__SASL_MECHANISM": "OAUTHBEARER"}
SERVER = OAUTH | {"PERDURE_KAFKA__OAUTH_URL": "https://issuer.example/token"}


def test_file_and_environment_make_one_table() -> None:
    """The file has what is not secret, with paths that start at its folder; the
    environment adds the password.
    """
    text = '[kafka]\nsecurity_protocol = "SASL_SSL"\nsasl_mechanism = "SCRAM-SHA-512"\nusername = "perdure"\n'
    text += 'ca_file = "ca.pem"\n[env.test.kafka]\nusername = "tester"\n'
    environ = {"PERDURE_KAFKA__PASSWORD": "hush-hush"}
    kafka = parse_config(text, "/etc/shop/perdure.toml", env_name="test", environ=environ).kafka
    assert (kafka.username, kafka.ca_file) == ("tester", Path("/etc/shop/ca.pem"))
    assert security_options_of(kafka.model_copy(update={"ca_file": None})) == ("tester", "hush-hush")


def security_options_of(kafka: Kafka) -> tuple[str, str]:
    options = security_options(kafka)
    return options["sasl_plain_username"], options["sasl_plain_password"]


@pytest.mark.parametrize("secret", ["password", "key_password", "oauth_client_secret"])
def test_a_secret_in_the_file_is_refused_unquoted(secret: str) -> None:
    """The error names the variable and the setting to use."""
    with pytest.raises(
        ConfigError, match=f"PERDURE_KAFKA__{secret.upper()}, or .* kafka.{secret}_file"
    ) as caught:
        parse_config(f'[kafka]\n{secret} = "hush-hush"\n', "perdure.toml")
    assert "hush" not in str(caught.value)


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"PERDURE_KAFKA__CA_FILE": "ca"}, 'kafka.ca_file has no effect with security_protocol = "PLAINTEXT"'),
        ({"PERDURE_KAFKA__USERNAME": "u"}, 'kafka.username has no effect .* set security_protocol to "SASL_SSL"'),
        ({"PERDURE_KAFKA__SECURITY_PROTOCOL": "SSL", "PERDURE_KAFKA__USERNAME": "u"}, 'to "SASL_SSL"$'),
        ({"PERDURE_KAFKA__SECURITY_PROTOCOL": "SSL", "PERDURE_KAFKA__KEY_FILE": "k"}, "kafka.cert_file too"),
        ({"PERDURE_KAFKA__SECURITY_PROTOCOL": "SASL_SSL"}, "needs kafka.sasl_mechanism"),
        ({"PERDURE_KAFKA__SECURITY_PROTOCOL": "TLS"}, "'PLAINTEXT', 'SSL', 'SASL_PLAINTEXT' or 'SASL_SSL'"),
        (SASL, "PLAIN needs kafka.username"),
        (SASL | {"PERDURE_KAFKA__USERNAME": "u"}, "PLAIN needs a password: set PERDURE_KAFKA__PASSWORD"),
        (LOGIN | {"PERDURE_KAFKA__PASSWORD_FILE": "p"}, "kafka.password and kafka.password_file are both set"),
        (LOGIN | {"PERDURE_KAFKA__TOKEN_FILE": "t"}, 'kafka.token_file belongs to sasl_mechanism = "OAUTHBEARER"'),
        (OAUTH, "needs one of token_file, token_command and oauth_url; set: none"),
        (OAUTH | {"PERDURE_KAFKA__USERNAME": "u"}, "kafka.username is not used with OAUTHBEARER"),
        (SERVER, "kafka.oauth_url needs oauth_client_id, and a secret"),
        (OAUTH | {"PERDURE_KAFKA__TOKEN_FILE": "t", "PERDURE_KAFKA__OAUTH_SCOPE": "s"}, "oauth_scope needs kafka.oauth_url"),
        (SERVER | {"PERDURE_KAFKA__OAUTH_URL": "http://issuer.example/"}, "must begin with https://"),
        ({"PERDURE_KAFKA__PASWORD": "hush-hush"}, 'did you mean "PASSWORD"'),
    ],
)  # fmt: skip
def test_settings_that_do_not_fit_together_are_named(environ: dict[str, str], expected: str) -> None:
    """Each is a `config-error` that names the setting and what to do, and quotes no secret."""
    with pytest.raises(ConfigError, match=expected) as caught:
        parse_config("", "perdure.toml", environ=environ)
    assert "hush" not in str(caught.value)


def test_secrets_are_shown_nowhere() -> None:
    """Not by `config show`, not in representations, not in log lines; a command
    keeps its arguments to itself.
    """
    config = parse_config("", "perdure.toml", environ=LOGIN)
    assert masked(config)["kafka"]["password"] == MASK
    assert Scrubber(config).text("refused hush-hush") == f"refused {MASK}"
    command = Kafka.from_revealed({"token_command": "get-token --secret hush-hush"})
    assert command.model_dump(mode="json")["token_command"] == f"get-token {MASK}"
    endpoint = Endpoint("kafka:9092", "node", {"sasl_plain_password": "hush-hush"})
    assert "hush" not in f"{config!r} {command!r} {endpoint!r}"


def test_a_helper_gets_the_settings_of_its_node() -> None:
    """What travels to a helper process makes the same settings there, secrets included."""
    config = parse_config("", "perdure.toml", environ=LOGIN)
    job = Job("app", "kafka://kafka:9092", ".", 1, ".", {}, dict(config.kafka.revealed()))
    assert job.config.kafka == config.kafka


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({"ca_file": "/nowhere/ca.pem"}, "kafka.ca_file: /nowhere/ca.pem cannot be read: No such file"),
        ({"ca_file": "{odd}"}, "kafka.ca_file: .* holds no certificate in PEM form"),
        ({"cert_file": "{odd}"}, "kafka.cert_file .* not a certificate and its key in PEM form"),
        ({"cert_file": "{odd}", "key_file": "/nowhere/key"}, "kafka.key_file: /nowhere/key cannot be read"),
        ({"security_protocol": "SASL_SSL", "sasl_mechanism": "PLAIN", "username": "u", "password_file": "{empty}"},
         "kafka.password_file: .* is empty"),
    ],
)  # fmt: skip
def test_a_file_that_cannot_be_used_is_named(settings: dict[str, Any], expected: str, tmp_path: Path) -> None:
    """The error names setting and file, not what the file holds."""
    (tmp_path / "odd").write_text("hush-hush")
    (tmp_path / "empty").write_text("\n")
    places = {"odd": str(tmp_path / "odd"), "empty": str(tmp_path / "empty")}
    filled = {name: str(value).format(**places) for name, value in settings.items()}
    with pytest.raises(ConfigError, match=expected) as caught:
        security_options(Kafka.from_revealed({"security_protocol": "SSL", **filled}))
    assert "hush" not in str(caught.value)
