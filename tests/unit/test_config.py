"""The configuration: what is read from where, who wins, and what is said when it is wrong."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from perdure.schemas.config import (
    Config,
    Limits,
    MigrationConfig,
    fold_migrations,
    masked,
    migration_steps,
    parse_config,
    parse_duration_s,
    secrets_in,
)
from perdure.schemas.errors import ConfigError
from perdure.schemas.migrations import Step

# As it stands in the wild: no name, no main, an environment that repeats the binding.
WRANGLER = """\
[[durable_objects.bindings]]
name = "COUNTER"
class_name = "Counter"
script_name = "my-worker"
 
[[env.production.durable_objects.bindings]]
name = "COUNTER"
class_name = "Counter"
 
[[migrations]]
tag = "v1"
new_classes = ["Counter"]
"""


def refusal(text: str, filename: str = "perdure.toml", **sources: object) -> str:
    with pytest.raises(ConfigError) as caught:
        parse_config(text, filename, **sources)  # type: ignore[arg-type]
    return str(caught.value)


def test_wrangler_file_loads_as_it_stands() -> None:
    """A wrangler.toml with bindings, an environment and a migration needs no change."""
    config = parse_config(WRANGLER, "wrangler.toml", default_name="shop")
    (binding,) = config.bindings
    assert (binding.name, binding.class_name, binding.script_name) == ("COUNTER", "Counter", "my-worker")
    assert config.namespaces() == {"Counter": "Counter"}
    assert config.name == "shop"


def test_environment_replaces_bindings_and_inherits_migrations() -> None:
    """`--env production` takes that environment's bindings whole, and the migrations from above."""
    config = parse_config(WRANGLER, "wrangler.toml", env_name="production", default_name="shop")
    (binding,) = config.bindings
    assert binding.script_name is None
    assert [step.tag for step in config.migrations] == ["v1"]
    assert config.name == "shop-production"


def test_environment_does_not_inherit_bindings_and_vars() -> None:
    """As in wrangler: what an environment does not repeat of bindings and vars it does not have."""
    text = """
    name = "shop"
    port = 9000
    [vars]
    COLOR = "red"
    [[durable_objects.bindings]]
    name = "COUNTER"
    class_name = "Counter"
    [limits]
    mailbox = 5
    body_bytes = 100
    [env.staging]
    [env.staging.limits]
    mailbox = 6
    [env.other]
    name = "elsewhere"
    """
    staging = parse_config(text, "perdure.toml", env_name="staging")
    assert (staging.vars, staging.bindings, staging.port) == ({}, (), 9000)
    assert (staging.limits.mailbox, staging.limits.body_bytes) == (6, 100)
    assert staging.name == "shop-staging"
    assert parse_config(text, "perdure.toml", env_name="other").name == "elsewhere"


def test_unknown_environment_names_the_known_ones() -> None:
    """`--env` with a name the file does not have says which it has."""
    assert 'no environment "prod"; known: production' in refusal(WRANGLER, "wrangler.toml", env_name="prod")


def test_wranglers_own_keys_are_left_alone() -> None:
    """What wrangler alone understands does not disturb, a JavaScript main included."""
    text = """
    name = "shop"
    main = "src/index.ts"
    compatibility_date = "2025-01-01"
    compatibility_flags = ["nodejs_compat"]
    routes = [{ pattern = "example.com/*", zone_name = "example.com" }]
    [[kv_namespaces]]
    binding = "KV"
    id = "1"
    [perdure]
    port = 9001
    [perdure.limits]
    mailbox = 7
    [env.production.perdure]
    port = 9002
    """
    config = parse_config(text, "wrangler.toml")
    assert (config.name, config.main, config.port, config.limits.mailbox) == ("shop", None, 9001, 7)
    assert parse_config(text, "wrangler.toml", env_name="production").port == 9002


@pytest.mark.parametrize(
    ("text", "filename", "said"),
    [
        ("prot = 1", "perdure.toml", 'perdure.toml: unknown key "prot"; did you mean "port"?'),
        (
            "[limits]\nmailbx = 1",
            "perdure.toml",
            'unknown key "limits.mailbx"; did you mean "limits.mailbox"?',
        ),
        ("[perdure]\nhots = 1", "wrangler.toml", 'unknown key "perdure.hots"; did you mean "perdure.host"?'),
        ("[env.x]\nprot = 1", "perdure.toml", 'unknown key "env.x.prot"; did you mean "env.x.port"?'),
        (
            '[[migrations]]\ntag = "a"\nnew_clases = []',
            "wrangler.toml",
            'unknown key "migrations[0].new_clases"; did you mean "migrations[0].new_classes"?',
        ),
        ("compatibility_date = 1", "perdure.toml", 'unknown key "compatibility_date"'),
        ("port = '1'", "perdure.toml", "perdure.toml: port: input should be a valid integer"),
        ("port = 70000", "perdure.toml", "port: input should be less than or equal to 65535"),
        (
            "[[durable_objects.bindings]]\nname = 'A'",
            "perdure.toml",
            "bindings[0].class_name: field required",
        ),
        ("x = ", "perdure.toml", "perdure.toml: not valid TOML"),
        ("log = 'kafka://nowhere'", "perdure.toml", '"nowhere" is not a Kafka address'),
        ("log = 'redis://a:1'", "perdure.toml", 'use "embedded" or "kafka://host:port'),
        ("keep_commands = '24'", "perdure.toml", '"24" is not a duration'),
        ("main = 'app.js'", "perdure.toml", '"app.js" is not a Python file'),
        ("name = 'a b'", "perdure.toml", '"a b" cannot name an app'),
        ("[limits]\nvalue_bytes = 20\nturn_bytes = 10", "perdure.toml", "value_bytes (20) must not be above"),
        ("env = 1", "perdure.toml", "write [env.production]"),
        ("[vars]\n'a-b' = 1", "perdure.toml", '"a-b" cannot name'),
    ],
)
def test_a_wrong_file_is_told_by_name_and_key(text: str, filename: str, said: str) -> None:
    """An error names the file, the key, and what would have been right."""
    assert said in refusal(text, filename)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("new_classes = ['B']", 'binding "A" names class "A", which no migration made; add a [[migrations]]'),
        ("new_classes = ['A']\n[[migrations]]\ntag = 'v1'", 'two migrations have the tag "v1"'),
        ("new_classes = ['A', 'A']", 'migration "v1" creates "A", but migration "v1" created it already'),
        (
            "new_classes = ['A']\ndeleted_classes = ['B']",
            'migration "v1" deletes class "B", which does not exist',
        ),
        (
            "new_classes = ['A', 'B']\nrenamed_classes = [{from = 'B', to = 'A'}]",
            'renames "B" to "A", which exists',
        ),
    ],
)
def test_migrations_that_do_not_follow_are_refused(text: str, said: str) -> None:
    """A step that contradicts the ones before it is named by its tag."""
    bindings = "[[durable_objects.bindings]]\nname = 'A'\nclass_name = 'A'\n"
    assert said in refusal(f"{bindings}[[migrations]]\ntag = 'v1'\n{text}")


def test_a_renamed_class_keeps_its_namespace() -> None:
    """A namespace is named by the migration that made it, whatever its class is called later."""
    steps = (
        MigrationConfig(tag="1", new_classes=("Counter",), new_sqlite_classes=("Room",)),
        MigrationConfig.model_validate({"tag": "2", "renamed_classes": [{"from": "Counter", "to": "Tally"}]}),
        MigrationConfig(tag="3", deleted_classes=("Room",)),
        MigrationConfig.model_validate(
            {"tag": "4", "transferred_classes": [{"from": "Old", "from_script": "other", "to": "New"}]}
        ),
    )
    assert fold_migrations(steps) == {"Counter": "Tally", "New": "New"}


def test_a_class_that_was_in_this_app_before_is_renamed_not_transferred() -> None:
    """From this very app a transfer is a rename: the namespace and its data stay.
    From another it starts empty.
    """
    moved = {"from": "Old", "from_script": "shop", "to": "New"}
    steps = (
        MigrationConfig(tag="1", new_classes=("Old",)),
        MigrationConfig.model_validate({"tag": "2", "transferred_classes": [moved]}),
    )
    assert fold_migrations(steps, "shop") == {"Old": "New"}
    assert fold_migrations(steps, "other") == {"Old": "Old", "New": "New"}
    assert migration_steps(steps, "shop")[1] == Step("2", renamed=(("Old", "New"),))
    assert migration_steps(steps, "other")[1] == Step("2", transferred=(("New", "New", "shop"),))


def test_the_name_of_a_namespace_is_never_given_again() -> None:
    """Neither a renamed nor a deleted class leaves its namespace's name free: old keys carry it."""
    first = MigrationConfig(tag="1", new_classes=("A",))
    for second in ({"renamed_classes": [{"from": "A", "to": "B"}]}, {"deleted_classes": ["A"]}):
        steps = (
            first,
            MigrationConfig.model_validate({"tag": "2", **second}),
            MigrationConfig(tag="3", new_classes=("A",)),
        )
        with pytest.raises(ValueError, match='migration "3" creates "A", but migration "1" created it'):
            fold_migrations(steps)


def test_two_bindings_of_one_name_are_refused() -> None:
    """`env.A` can mean one thing."""
    binding = "[[durable_objects.bindings]]\nname = 'A'\nclass_name = 'A'\n"
    assert 'two bindings are named "A"' in refusal(binding * 2)
    assert '"A" is both a binding and a var' in refusal(f"{binding}[vars]\nA = 1")


def test_environment_beats_file_and_flag_beats_environment() -> None:
    """The nearer to the start of the process, the stronger."""
    text = "port = 1\nhost = 'a'\npartitions = 2\n[limits]\nmailbox = 3\nkey_bytes = 9"
    environ = {"PERDURE_PORT": "2", "PERDURE_HOST": "b", "PERDURE_LIMITS__MAILBOX": "4", "OTHER": "x"}
    config = parse_config(text, "perdure.toml", environ=environ, flags={"port": 3, "host": None})
    assert (config.port, config.host, config.partitions) == (3, "b", 2)
    assert (config.limits.mailbox, config.limits.key_bytes) == (4, 9)


def test_environment_variables_become_the_setting_s_type() -> None:
    """Texts are read as what the setting is; a var stays a text and keeps its case."""
    environ = {
        "PERDURE_INSECURE_PUBLIC": "true",
        "PERDURE_DEADLINE_S": "1.5",
        "PERDURE_DATA_DIR": "/data",
        "PERDURE_VARS__ORIGIN_URL": "http://origin",
        "PERDURE_VARS__Count": "5",
    }
    config = parse_config("", "perdure.toml", environ=environ)
    assert (config.insecure_public, config.deadline_s, config.data_dir) == (True, 1.5, Path("/data"))
    assert config.vars == {"ORIGIN_URL": "http://origin", "Count": "5"}


@pytest.mark.parametrize(
    ("variable", "text", "said"),
    [
        (
            "PERDURE_PORT",
            "tcp://10.0.0.1:80",
            "environment variable PERDURE_PORT: input should be a valid integer",
        ),
        ("PERDURE_PORT", "-1", "environment variable PERDURE_PORT"),
        ("PERDURE_PROT", "1", 'PERDURE_PROT: no such setting; did you mean "PORT"?'),
        ("PERDURE_LIMITS__MAILBX", "1", 'PERDURE_LIMITS__MAILBX: no such setting; did you mean "MAILBOX"?'),
        ("PERDURE_LIMITS__MAILBOX", "0", "environment variable PERDURE_LIMITS__MAILBOX"),
    ],
)
def test_a_wrong_environment_variable_is_told_by_its_name(variable: str, text: str, said: str) -> None:
    """A variable that cannot be used, or looks like a typo, is an error that names it."""
    assert said in refusal("", environ={variable: text})


def test_origins_are_a_list_in_a_file_and_a_text_in_the_environment() -> None:
    """Separated by commas there; what is no origin is told."""
    listed = parse_config('allowed_origins = ["https://a.example", "*"]', "perdure.toml")
    assert listed.allowed_origins == ("https://a.example", "*")
    texts = parse_config(
        "", "perdure.toml", environ={"PERDURE_ALLOWED_ORIGINS": "https://a.example,http://b:1"}
    )
    assert texts.allowed_origins == ("https://a.example", "http://b:1")
    assert '"a.example" is not an origin' in refusal('allowed_origins = ["a.example"]')


def test_variables_of_others_are_left_alone() -> None:
    """What merely shares the prefix (tests, service links of a cluster) is no setting."""
    environ = {"PERDURE_TEST_KAFKA": "x", "PERDURE_REQUIRE_STRACE": "1", "PERDURE_SERVICE_ADDRESS": "1.2.3.4"}
    assert parse_config("", "perdure.toml", environ=environ) == Config()


def test_a_wrong_flag_is_told_as_it_was_typed() -> None:
    """A flag's error names the flag."""
    assert "--port: input should be less than or equal to 65535" in refusal("", flags={"port": 70000})
    assert "--partitions: input should be greater than or equal to 1, got 0" in refusal(
        "", flags={"partitions": 0}
    )
    assert refusal("", flags={"kafka_listen": "x"}).startswith("--kafka: ")


def test_data_dir_starts_at_the_file_that_names_it() -> None:
    """A relative folder in a file belongs to the file; one given by hand belongs to the caller's folder."""
    assert parse_config("data_dir = 'd'", "/srv/app/perdure.toml").data_dir == Path("/srv/app/d")
    by_hand = parse_config("data_dir = 'd'", "/srv/app/perdure.toml", flags={"data_dir": Path("e")})
    assert by_hand.data_dir == Path("e")


def test_secrets_are_masked_wherever_they_stand() -> None:
    """Nothing whose name looks secret is shown, nor the user part of an address; limits are."""
    text = """
    [vars]
    API_KEY = "k1"
    COLOR = "red"
    ORIGIN_URL = "https://user:k2@host/x"
    [vars.deep]
    list = [{ db_password = "k3", n = 1 }]
    """
    shown = masked(parse_config(text, "perdure.toml"))
    assert all(secret not in str(shown) for secret in ("k1", "k2", "k3"))
    assert shown["vars"]["COLOR"] == "red"
    assert shown["limits"]["key_bytes"] == Limits().key_bytes


@pytest.mark.parametrize(
    ("host", "public"),
    [
        ("127.0.0.1", False),
        ("127.8.8.8", False),
        ("::1", False),
        ("localhost", False),
        ("0.0.0.0", True),
        ("::", True),
        ("10.0.0.1", True),
        ("box.local", True),
    ],
)
def test_public_is_whatever_is_not_loopback(host: str, public: bool) -> None:
    """A host counts as public unless it is certain that it is not."""
    assert Config(host=host).is_public is public


@given(
    st.integers(0, 10**6), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400)])
)
def test_durations(number: int, unit: tuple[str, float]) -> None:
    """A number and a unit are seconds."""
    assert parse_duration_s(f"{number}{unit[0]}") == pytest.approx(number * unit[1])


def test_commands_are_kept_for_a_time_or_for_ever() -> None:
    """`keep_commands` is a duration; for ever has no seconds."""
    assert Config().keep_commands_s == 86400
    assert Config(keep_commands="forever").keep_commands_s is None
    assert "must be longer than 0" in refusal("keep_commands = '0s'")


def test_kafka_brokers_are_read_from_the_log() -> None:
    """Each broker of a Kafka log is named once; the embedded log has none."""
    assert Config(log="kafka://a:1,[::1]:2").kafka_brokers == ("a:1", "[::1]:2")
    assert Config().kafka_brokers == ()


def test_secrets_come_from_outside_the_file() -> None:
    """The file names what the app needs; the environment sets it, and wins over
    `.dev.vars`, which wins over vars.
    """
    text = 'secrets = ["API_KEY", "OTHER"]\n[vars]\nAPI_KEY = "of the file"'
    config = parse_config(text, "perdure.toml")
    assert config.missing_secrets == ["API_KEY", "OTHER"]
    sources = {"environ": {"PERDURE_SECRETS__API_KEY": "of the environment"}}
    config = parse_config(text, "perdure.toml", secrets={"API_KEY": "of dev", "Mine": "m"}, **sources)
    assert config.missing_secrets == ["OTHER"]
    assert config.secret_values == {"API_KEY": "of the environment", "Mine": "m"}
    assert config.vars == {"API_KEY": "of the file"}


def test_secrets_in_a_wrangler_file_are_perdures_own_key() -> None:
    """Under `[perdure]`; an environment does not inherit them, as it does not inherit vars."""
    text = '[perdure]\nsecrets = ["A"]\n[env.production.perdure]\nsecrets = ["B"]\n[env.other]\n'
    assert parse_config(text, "wrangler.toml").missing_secrets == ["A"]
    assert parse_config(text, "wrangler.toml", env_name="production").missing_secrets == ["B"]
    assert parse_config(text, "wrangler.toml", env_name="other").missing_secrets == []


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('[secrets]\nA = "hidden"', "secrets is a list of the names that the app needs"),
        ("secrets = [1]", "secrets is a list of the names that the app needs"),
        ('secrets = ["a-b"]', '"a-b" cannot name'),
        ("deadline_s = 0", "deadline_s"),
    ],
)
def test_no_error_shows_a_secret(text: str, said: str) -> None:
    """Whatever is wrong with a configuration, what is secret in it is not in the message."""
    told = refusal(text, environ={"PERDURE_SECRETS__A": "hidden"})
    assert said in told
    assert "hidden" not in told


def test_a_secret_is_never_shown() -> None:
    """Neither by `config show`, nor by the repr of the configuration."""
    config = parse_config('secrets = ["B"]', "perdure.toml", environ={"PERDURE_SECRETS__A": "hidden"})
    assert masked(config)["secrets"] == {"A": "********", "B": None}
    assert "hidden" not in f"{config!r}{config}{config.model_dump()}{masked(config)}"
    bound = "[[durable_objects.bindings]]\nname = 'A'\nclass_name = 'C'"
    told = refusal(bound, environ={"PERDURE_SECRETS__A": "hidden"})
    assert '"A" is both a binding and a var or secret' in told
    assert "hidden" not in told


def test_dev_vars_are_read_as_wrangler_reads_them() -> None:
    """`NAME=value`, with comments, quotes and `export`; a line that is none is named, not shown."""
    text = "# a comment\nA=1\n\n B = \"two words\" \nexport C='x=y'\nD=\n"
    assert secrets_in(text, ".dev.vars") == {"A": "1", "B": "two words", "C": "x=y", "D": ""}
    with pytest.raises(ConfigError) as caught:
        secrets_in("A=1\nhidden", ".dev.vars")
    assert str(caught.value) == ".dev.vars:2: write NAME=value"


SECRET_LOGS = (
    "kafka://admin:hunter2@127.0.0.1:9092",
    "kafka://admin:hun@ter2@127.0.0.1:9092",
    "kafka+ssl://admin:hunter2@127.0.0.1:9092",
    "admin:hunter2@127.0.0.1:9092",
    "kafka://127.0.0.1:9092?sasl_password=hunter2",
    "https://admin:hunter2@127.0.0.1:9092",
)


@pytest.mark.parametrize("log", SECRET_LOGS)
@pytest.mark.parametrize("how", ["flag", "environment", "file"])
def test_an_error_about_the_log_shows_no_password(log: str, how: str) -> None:
    """Wherever it is given: neither the password nor the user is quoted; the table
    of TLS and SASL is named.
    """
    text = f"log = '{log}'" if how == "file" else ""
    environ = {"PERDURE_LOG": log} if how == "environment" else None
    flags = {"log": log} if how == "flag" else None
    with pytest.raises(ConfigError) as refused:
        parse_config(text, "perdure.toml", environ=environ, flags=flags)
    said = str(refused.value)
    assert "hunter2" not in said
    assert "ter2" not in said
    assert "admin" not in said
    if log.startswith("kafka"):
        assert "[kafka] table" in said


def test_an_error_about_a_key_set_s_address_shows_no_password() -> None:
    """The same of `jwt.jwks_url`."""
    text = "[jwt]\nissuer = 'i'\naudience = 'a'\njwks_url = 'https://admin:hunter2@issuer.example/keys'\n"
    with pytest.raises(ConfigError, match="is not the address of a key set") as refused:
        parse_config(text, "perdure.toml")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("to", "why"),
    [
        ("backups", "is not a place for snapshots"),
        ("http://host/x", "is not a place for snapshots"),
        ("file://relative/x", "does not name a folder by its whole path"),
        ("file:///", "does not name a folder by its whole path"),
        ("s3:///x", "does not name a bucket"),
        ("s3://me:hunter2@bucket/x", "has credentials or parameters"),
        ("az://container/x?sas=hunter2", "has credentials or parameters"),
    ],
)
def test_a_place_for_snapshots_is_checked(to: str, why: str) -> None:
    """A scheme that is known, a whole path, a bucket; credentials are refused and not repeated."""
    refused = refusal(f'[snapshots]\nto = "{to}"')
    assert why in refused
    assert "hunter2" not in refused


def test_snapshots_are_configured_by_file_and_environment() -> None:
    """`keep_journal` needs them; variables set their keys one by one; wrong ones are named."""
    config = parse_config(
        '[snapshots]\nto = "s3://bucket/x"\nendpoint = "http://minio:9000"',
        "perdure.toml",
        environ={"PERDURE_SNAPSHOTS__KEEP": "7", "PERDURE_KEEP_JOURNAL": "7d"},
    )
    assert config.snapshots is not None
    assert (config.snapshots.to, config.snapshots.keep, config.snapshots.every_s) == ("s3://bucket/x", 7, 600)
    assert config.keep_journal_s == 7 * 86_400
    assert Config().keep_journal_s is None
    alone = parse_config("", "perdure.toml", environ={"PERDURE_SNAPSHOTS__TO": "file:///var/snapshots"})
    assert alone.snapshots is not None
    assert "add [snapshots]" in refusal('keep_journal = "7d"')
    assert 'did you mean "snapshots.every"' in refusal('[snapshots]\nto = "file:///x"\nevry = "1m"')
    assert 'must be "1s" or longer' in refusal('[snapshots]\nto = "file:///x"\nevery = "10ms"')
    assert "is not the address of an object store" in refusal(
        '[snapshots]\nto = "s3://b/x"\nendpoint = "minio"'
    )
