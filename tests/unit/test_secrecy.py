"""No error about an address of the configuration quotes the user or the password in
it, however it is mistyped.
"""

from __future__ import annotations

import json
import re

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from perdure.api import cli
from perdure.schemas.config import parse_config
from perdure.schemas.errors import ConfigError
from perdure.schemas.secrecy import MASK, without_credentials

# each piece of a password is found again in an error, whatever separators it holds
PIECES = ("Zqx1", "Wvj2", "Kpy3")
SEPARATORS = st.text(st.sampled_from("@:/?&=;,#%$ '\"\\[]{}\t<>|!*é"), max_size=3)
PASSWORDS = st.tuples(SEPARATORS, SEPARATORS, SEPARATORS, SEPARATORS).map(
    lambda each: "".join(part for pair in zip(each, (*PIECES, ""), strict=True) for part in pair)
)
FORMS = (
    "kafka://user:{}@host:9092",
    "kafka://host:9092,user:{}@host:9093",
    "kafka://user:{}@host:9092/path",
    "kafka:/user:{}@host:9092",
    "kafka:user:{}@host:9092",
    "kafka//user:{}@host:9092",
    "user:{}@host:9092",
    " kafka://user:{}@host:9092",
    "KAFKA://user:{}@host:9092",
    "kafka+ssl://user:{}@host:9092",
    "https://user:{}@host:9092",
    "kafka://host:9092?sasl_password={}",
    "kafka://host:9092?a=b&sasl_password={}&c=d",
    "kafka:/host:9092?sasl_password={}",
    "kafka://host:9092;password={}",
    "kafka://host:9092&password={}",
    "kafka://host:9092#{}",
)


def error_of(log: str, how: str) -> str:
    flags = {"log": log} if how == "flag" else {}
    environ = {"PERDURE_LOG": log} if how == "environment" else {}
    table = {"file": "", "environment of the file": "[env.x]\n"}.get(how)
    text = "" if table is None else f"{table}log = {json.dumps(log)}\n"
    name = "x" if how == "environment of the file" else None
    with pytest.raises(ConfigError) as caught:
        parse_config(text, "perdure.toml", env_name=name, environ=environ, flags=flags)
    assert caught.value.__cause__ is None
    return str(caught.value)


@pytest.mark.parametrize("how", ["flag", "environment", "file", "environment of the file"])
@given(form=st.sampled_from(FORMS), password=PASSWORDS)
@example(form=FORMS[0], password="Zqx1 Wvj2")
@example(form=FORMS[11], password="Zqx1@Wvj2")
@example(form=FORMS[11], password="&Zqx1=Wvj2")
@example(form=FORMS[-1], password="Zqx1=Wvj2")
@example(form=FORMS[11], password="Zqx1;Wvj2=Kpy3")
def test_an_error_about_the_log_quotes_no_piece_of_a_password(how: str, form: str, password: str) -> None:
    """Whatever the password holds and wherever it is given; and the value is quoted once."""
    error = error_of(form.format(password), how)
    assert not [piece for piece in PIECES if piece in error], error
    assert error.count("host:9092") <= 1, error
    assert "[kafka] table" in error or "is not a log" in error


def test_a_value_that_is_not_a_log_is_quoted_once() -> None:
    """A typing error is seen, and not twice."""
    assert error_of("kafka:/x", "flag").count("kafka:/x") == 1
    assert error_of("embeded", "environment").count("embeded") == 1


@given(form=st.sampled_from(FORMS), password=PASSWORDS)
def test_an_argument_that_is_not_utf_8_is_quoted_without_its_password(form: str, password: str) -> None:
    """It is refused before it is known which option it belongs to."""
    for argument in (form.format(password) + "\udcff", "--log=" + form.format(password + "\udcff")):
        with pytest.raises(ConfigError) as caught:
            cli._check([argument])
        assert not [piece for piece in PIECES if piece in str(caught.value)], str(caught.value)


@given(form=st.sampled_from(FORMS), password=PASSWORDS)
@example(form=FORMS[0], password="Wvj2[Zqx1]")
def test_other_addresses_are_quoted_without_their_password(form: str, password: str) -> None:
    """An address of a key set, of a page or of this server, that is refused; those of `log` are some."""
    address = json.dumps(form.format(password))
    for table in (
        f'[jwt]\nissuer = "i"\naudience = "a"\njwks_url = {address}\n',
        f"allowed_origins = [{address}]\n",
        f"allowed_hosts = [{address}]\n",
    ):
        said = ""
        try:
            parse_config(table, "perdure.toml")
        except ConfigError as error:
            said = str(error)
        assert not [piece for piece in PIECES if piece in said], said


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("embedded", "embedded"),
        ("kafka://a:1,b:2", "kafka://a:1,b:2"),
        ("postgres://user:word@host/db", f"postgres://{MASK}@host/db"),
        ("https://host/path?token=a&b=c&secret", f"https://host/path?token={MASK}"),
        ("https://host?a=b@c", f"https://{MASK}"),
    ],
)
def test_what_holds_no_credentials_of_an_address_is_shown(text: str, left: str) -> None:
    """Scheme, host, path and the names of parameters, as far as they can be told apart."""
    assert without_credentials(text) == left
    assert not re.search("word", left)
