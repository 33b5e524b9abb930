"""Everything that dlt resolves as a secret is known to the redactor, and nothing that it does not."""

from __future__ import annotations

import base64
import gc
import json
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import dlt
import pytest
from dlt.common import logger as dlt_logger
from dlt.common.configuration import configspec, resolve_configuration
from dlt.common.configuration.accessors import _SecretsAccessor
from dlt.common.configuration.exceptions import (
    ConfigFieldMissingException,
    ConfigValueCannotBeCoercedException,
)
from dlt.common.configuration.specs import (
    AwsCredentials,
    AzureCredentialsWithoutDefaults,
    BaseConfiguration,
    ConnectionStringCredentials,
    GcpServiceAccountCredentialsWithoutDefaults,
)
from dlt.common.configuration.specs.base_configuration import SecretSentinel, resolve_type
from dlt.common.configuration.specs.config_section_context import ConfigSectionContext
from dlt.common.configuration.utils import TraceLogContext
from dlt.common.destination.capabilities import DestinationCapabilitiesContext
from dlt.common.typing import TSecretStrValue, TSecretValue
from dlt.pipeline.exceptions import PipelineStepFailed
from dlt.sources.helpers.rest_client.auth import APIKeyAuth, BearerTokenAuth, HttpBasicAuth

import dltobs
from dltobs import Redactor, _state
from dltobs._redaction.learner import SecretLearner
from dltobs._redaction.secrets import secrets_in
from recording import RecordingSink

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

SECRET = "pl4nted/Secret+value=%1"
KEY = "-----BEGIN PRIVATE KEY-----\nMIIEvQIBADANBgkq\nhkiG9w0BAQEFAASC\n-----END PRIVATE KEY-----\n"


@dataclass
class Learned:
    redactor: Redactor
    learner: SecretLearner
    errors: list[Exception]

    @property
    def values(self) -> frozenset[str]:
        return self.redactor.values


@pytest.fixture
def attach() -> Iterator[Callable[[], Learned]]:
    """Attaches a learner and detaches it at the end; what went wrong in it fails the test."""
    made: list[Learned] = []

    def make() -> Learned:
        gc.collect()  # configurations of other tests are not what was resolved before
        errors: list[Exception] = []
        redactor = Redactor()
        made.append(Learned(redactor, SecretLearner(redactor, errors.append), errors))
        made[-1].learner.attach()
        return made[-1]

    yield make
    for learned in reversed(made):
        learned.learner.detach()
        assert learned.errors == []


@pytest.fixture
def learned(attach) -> Learned:
    made: Learned = attach()
    return made


@configspec
class ApiConfiguration(BaseConfiguration):
    api_key: TSecretStrValue = None  # type: ignore[assignment]
    base_url: str = "https://api.example.com"
    dataset: str = "orders_dataset"


@configspec
class OuterConfiguration(BaseConfiguration):
    inner: ApiConfiguration = None  # type: ignore[assignment]
    credentials: ConnectionStringCredentials = None  # type: ignore[assignment]
    username: str = "loader_user"


def hidden(learned: Learned, *texts: str) -> bool:
    return not any(text in learned.redactor.text(f"a {text} b") for text in texts)


def shown(learned: Learned, *texts: str) -> bool:
    return all(learned.redactor.text(f"a {text} b") == f"a {text} b" for text in texts)


def test_a_secret_from_the_environment_is_learned(learned, monkeypatch):
    monkeypatch.setenv("API_KEY", SECRET)
    monkeypatch.setenv("DATASET", "orders_2")
    assert resolve_configuration(ApiConfiguration()).api_key == SECRET
    assert hidden(learned, SECRET)
    assert shown(learned, "orders_2", "https://api.example.com")


def test_a_secret_from_secrets_toml_is_learned(learned, tmp_path):
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(
        f'[sources.shop]\napi_key = "{SECRET}"\n[destination.postgres.credentials]\n'
        'password = "t0ml-password"\nhost = "db.example.com"\nusername = "toml_user"\ndatabase = "warehouse"\n'
    )
    config = resolve_configuration(ApiConfiguration(), sections=("sources", "shop"))
    assert config.api_key == SECRET
    postgres = dlt.destinations.postgres()
    client = postgres.configuration(postgres.spec()._bind_dataset_name("data"))
    assert client.credentials.password == "t0ml-password"
    assert hidden(learned, SECRET, "t0ml-password")
    assert shown(learned, "db.example.com", "toml_user", "warehouse")


def test_explicit_arguments_of_sources_and_resources_are_learned(learned):
    @dlt.resource
    def orders(token: str = dlt.secrets.value, region: str = dlt.config.value):
        yield {"id": 1}

    @dlt.source
    def shop(api_key: str = dlt.secrets.value, shop_name: str = "my-shop-name"):
        return orders("explicit-token", region="eu-central")

    list(shop(api_key=SECRET, shop_name="other-shop"))
    assert hidden(learned, SECRET, "explicit-token")
    assert shown(learned, "eu-central", "my-shop-name", "other-shop")


def test_a_dict_that_is_a_secret_is_learned_without_hosts_and_user_names(learned, monkeypatch):
    @dlt.resource
    def orders(auth: TSecretValue = dlt.secrets.value):
        yield {"id": 1}

    list(orders({"user": "some-user", "anything": SECRET, "port": 123456, "parts": ["one-part", 7654321]}))
    assert hidden(learned, SECRET, "one-part", "7654321")
    assert shown(learned, "some-user", "123456")


@pytest.mark.parametrize(
    "make",
    [
        lambda: dlt.destinations.postgres(
            "postgresql://loader_user:p%40ss%2Fword@db.example.com:5432/warehouse"
        ),
        lambda: dlt.destinations.postgres(
            ConnectionStringCredentials(
                "postgresql://loader_user:p%40ss%2Fword@db.example.com:5432/warehouse"
            )
        ),
        lambda: dlt.destinations.postgres(
            {
                "host": "db.example.com",
                "username": "loader_user",
                "password": "p@ss/word",
                "database": "warehouse",
            }
        ),
    ],
    ids=["string", "object", "dict"],
)
def test_the_password_of_a_destination_is_learned_and_its_host_is_not(learned, make):
    postgres = make()
    config = postgres.configuration(postgres.spec()._bind_dataset_name("orders_data"))
    assert config.credentials.password == "p@ss/word"
    assert hidden(learned, "p@ss/word", "p%40ss%2Fword")
    assert shown(learned, "loader_user", "db.example.com", "warehouse", "orders_data")


@pytest.mark.parametrize("value", ["{path}", "duckdb:///{path}"])
@pytest.mark.parametrize("place", ["environment", "argument", "finished run"])
def test_the_file_of_a_duckdb_database_is_no_secret(attach, monkeypatch, tmp_path, value, place):
    path = str(tmp_path / "shop_database.duckdb")
    credentials = value.format(path=path)
    learned = None if place == "finished run" else attach()
    if place == "argument":
        duckdb = dlt.destinations.duckdb(credentials)
    else:
        monkeypatch.setenv("DESTINATION__DUCKDB__CREDENTIALS", credentials)
        duckdb = dlt.destinations.duckdb()
    dlt.pipeline("p", destination=duckdb, pipelines_dir=str(tmp_path)).run([{"id": 1}], table_name="t")
    learned = learned or attach()
    assert shown(learned, path, "shop_database", credentials)


@pytest.mark.parametrize(
    ("value", "secrets", "others"),
    [
        ("postgresql://u_name:hunter2@db.example.com/wh", ["hunter2", "u_name:hunter2"], ["db.example.com"]),
        ("mssql://u_name:hunter2@db.example.com/wh?driver=ODBC+Driver+18", ["hunter2"], ["ODBC+Driver+18"]),
        ("snowflake://u_name@db.example.com/wh?token=hunter2x", ["hunter2x"], ["u_name", "db.example.com"]),
        ("postgresql://u_name@db.example.com/wh", [], ["u_name", "db.example.com", "postgresql://"]),
        ("postgresql://u_name:pa/ss@word@db.example.com/wh", ["pa/ss@word"], ["db.example.com"]),
    ],
)
def test_native_credentials_from_the_environment_give_what_is_secret_in_them(
    learned, monkeypatch, value, secrets, others
):
    monkeypatch.setenv("DESTINATION__CREDENTIALS", value)
    assert resolve_configuration(ConnectionStringCredentials(), sections=("destination",)).is_resolved()
    assert hidden(learned, *secrets)
    assert not secrets or hidden(learned, value)
    assert shown(learned, *others)


def test_a_service_account_is_learned_from_its_json(learned, monkeypatch):
    account = json.dumps(
        {
            "type": "service_account",
            "project_id": "acme-data",
            "private_key": KEY,
            "client_email": "loader@acme-data.iam.gserviceaccount.com",
        },
        indent=2,
    )
    monkeypatch.setenv("DESTINATION__BIGQUERY__CREDENTIALS", account)
    config = resolve_configuration(
        GcpServiceAccountCredentialsWithoutDefaults(), sections=("destination", "bigquery")
    )
    assert config.private_key.strip() == KEY.strip()
    assert hidden(learned, account, KEY, "hkiG9w0BAQEFAASC", base64.b64encode(account.encode()).decode())
    assert shown(
        learned, "acme-data", "loader@acme-data.iam.gserviceaccount.com", '"type": "service_account",'
    )


def test_cloud_credentials_are_learned_from_a_filesystem_destination(learned, monkeypatch):
    monkeypatch.setenv("DESTINATION__FILESYSTEM__CREDENTIALS__AWS_ACCESS_KEY_ID", "my-access-key-id")
    monkeypatch.setenv("DESTINATION__FILESYSTEM__CREDENTIALS__AWS_SECRET_ACCESS_KEY", SECRET)
    filesystem = dlt.destinations.filesystem("s3://orders-bucket/path")
    config = filesystem.configuration(filesystem.spec()._bind_dataset_name("orders_data"))
    assert config.credentials.aws_secret_access_key == SECRET
    explicit = AwsCredentials()
    explicit.aws_secret_access_key = "explicit-secret-key"
    explicit.aws_access_key_id = "my-access-key-id"
    filesystem = dlt.destinations.filesystem("s3://orders-bucket/path", credentials=explicit)
    filesystem.configuration(filesystem.spec()._bind_dataset_name("orders_data"))
    resolve_configuration(
        AzureCredentialsWithoutDefaults(),
        explicit_value={
            "azure_storage_account_name": "acme-account",
            "azure_storage_sas_token": "sv=1&sig=azure-sig",
        },
    )
    assert hidden(learned, SECRET, "explicit-secret-key", "sv=1&sig=azure-sig", "azure-sig")
    assert shown(learned, "s3://orders-bucket/path", "orders_data", "acme-account")


def test_secrets_in_nested_configurations_are_learned(learned, monkeypatch):
    config = resolve_configuration(
        OuterConfiguration(),
        explicit_value={
            "inner": {"api_key": SECRET},
            "credentials": "mysql://nested_user:nested-password@mysql.example.com/db",
        },
    )
    assert config.inner.api_key == SECRET
    assert hidden(learned, SECRET, "nested-password")
    assert shown(learned, "nested_user", "mysql.example.com", "loader_user", "orders_dataset")


def test_what_was_resolved_is_learned_though_another_field_is_missing(learned):
    @dlt.resource
    def orders(api_key: str = dlt.secrets.value, other: str = dlt.config.value):
        yield {"id": 1}

    with pytest.raises(ConfigFieldMissingException, match="other"):
        list(orders(SECRET))
    assert hidden(learned, SECRET)


def test_what_was_resolved_is_learned_though_the_configuration_refuses_it(learned):
    @configspec
    class Refusing(ApiConfiguration):
        def on_resolved(self) -> None:
            message = f"bad key {self.api_key}"
            raise ValueError(message)

    with pytest.raises(ValueError, match="bad key"):
        resolve_configuration(Refusing(), explicit_value={"api_key": SECRET})
    assert hidden(learned, SECRET)


def test_a_value_that_cannot_be_coerced_is_learned_before_dlt_complains(learned, monkeypatch):
    @configspec
    class Numeric(BaseConfiguration):
        pin: Annotated[int, SecretSentinel] = None  # type: ignore[assignment]

    monkeypatch.setenv("PIN", "not-a-number")
    with pytest.raises(ConfigValueCannotBeCoercedException) as caught:
        resolve_configuration(Numeric())
    assert caught.value.field_value == "not-a-number"
    assert hidden(learned, "not-a-number")
    monkeypatch.setenv("PIN", "87654321")
    assert resolve_configuration(Numeric()).pin == 87654321
    assert hidden(learned, "87654321")


@pytest.mark.parametrize(
    "ask", [lambda: dlt.secrets["shop.api.code"], lambda: dlt.secrets.get("shop.api.code", str)]
)
def test_what_is_asked_of_dlt_secrets_is_learned(learned, monkeypatch, ask):
    monkeypatch.setenv("SHOP__API__CODE", SECRET)
    assert ask() == SECRET
    assert hidden(learned, SECRET)


def test_a_whole_section_of_dlt_secrets_is_learned_without_hosts_and_user_names(learned, tmp_path):
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(
        '[db.credentials]\nhost = "db.example.com"\nusername = "loader_user"\npassword = "hunter2"\n'
        'aws_secret_access_key = "opaque"\n[db.credentials.query]\nsslmode = "require"\napplication_name = "orders"\n'
    )
    assert dlt.secrets["db.credentials"]["password"] == "hunter2"
    assert dlt.secrets.get("db.credentials.host", str) == "db.example.com"
    assert dlt.secrets.get("db.nothing") is None
    assert dlt.secrets["db"]["credentials"]["password"] == "hunter2"
    assert hidden(learned, "hunter2", "opaque")
    assert shown(
        learned, "db.example.com", "loader_user", "SSL is required", "require", "orders_archive", "orders"
    )


def test_plain_settings_in_credentials_of_a_resource_are_no_secrets(learned, tmp_path):
    """Only what has the name of a secret is one there, whatever the resource hints."""
    (tmp_path / ".dlt").mkdir()
    (tmp_path / ".dlt" / "secrets.toml").write_text(
        '[credentials]\npassword = "pl4nted"\ndatabase = "shopping"\noption = "require"\n'
        '[credentials.connect_args]\nsslmode = "verify-full"\ntoken = "pl4nted-token"\n'
    )

    @dlt.resource
    def orders(credentials: TSecretValue = dlt.secrets.value):
        yield {"id": 1}

    list(orders())
    assert hidden(learned, "pl4nted", "pl4nted-token")
    assert shown(learned, "SSL is required", "require", "shopping", "verify-full")


def test_what_is_asked_of_dlt_config_is_no_secret_but_by_its_name(learned, monkeypatch):
    monkeypatch.setenv("SHOP__NAME", "my-shop-name")
    monkeypatch.setenv("SHOP__API_KEY", SECRET)
    assert dlt.config["shop.name"] == "my-shop-name"
    assert dlt.config["shop.api_key"] == SECRET
    assert hidden(learned, SECRET)
    assert shown(learned, "my-shop-name")


def test_a_secret_file_with_a_line_break_is_known_without_it(learned, monkeypatch):
    """Kubernetes mounts what the author of the secret wrote, often with a line break at the end."""
    monkeypatch.setenv("API_KEY", "mounted-secret\n")
    assert resolve_configuration(ApiConfiguration()).api_key == "mounted-secret\n"
    assert hidden(learned, "mounted-secret")
    assert hidden(learned, base64.b64encode(b"u:mounted-secret").decode())


def test_a_field_that_becomes_a_secret_while_it_is_resolved_is_learned(learned):
    @configspec
    class Dynamic(BaseConfiguration):
        kind: str = "secret"
        value: Any = None

        @resolve_type("value")
        def value_type(self) -> type:
            return TSecretStrValue if self.kind == "secret" else str  # type: ignore[return-value]

    resolve_configuration(Dynamic(), explicit_value={"value": SECRET})
    resolve_configuration(Dynamic(), explicit_value={"kind": "plain", "value": "plain-value"})
    assert hidden(learned, SECRET)
    assert shown(learned, "plain-value")


def test_fields_that_nobody_hinted_are_learned_by_their_name_and_by_the_urls_in_them(learned):
    @configspec
    class Careless(BaseConfiguration):
        password: str = "careless-password"
        endpoint: str = (
            "https://user_name:url-password@host.example.com/?api_key=query-secret&page=first-page"
        )

    resolve_configuration(Careless())
    assert hidden(learned, "careless-password", "url-password", "query-secret")
    assert shown(learned, "user_name", "host.example.com", "first-page")


def test_the_salt_that_dlt_makes_of_the_name_of_the_pipeline_is_left_out(learned, pipeline):
    made = pipeline()
    made.run([{"id": 1}], table_name="orders")
    salt = made.pipeline_salt
    assert len(salt) > 5
    assert shown(learned, salt)


def test_a_run_with_harmless_configuration_teaches_nothing(learned, pipeline):
    pipeline("harmless").run([{"id": 1}], table_name="orders")
    assert learned.values == frozenset()


def test_secrets_resolved_in_other_threads_are_learned(learned):
    def resolve(number: int) -> None:
        resolve_configuration(ApiConfiguration(), explicit_value={"api_key": f"thread-secret-{number}"})

    threads = [threading.Thread(target=resolve, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert learned.values == {f"thread-secret-{number}" for number in range(4)}


def test_what_was_resolved_before_is_learned_from_the_objects_that_are_alive(attach, monkeypatch):
    monkeypatch.setenv("API_KEY", SECRET)
    config = resolve_configuration(ApiConfiguration())
    explicit = resolve_configuration(ApiConfiguration(), explicit_value={"api_key": "explicit-before"})
    assert hidden(attach(), SECRET, "explicit-before")
    assert config is not explicit


def test_what_an_earlier_run_resolved_is_learned_though_its_traces_are_cleared(attach, monkeypatch, pipeline):
    monkeypatch.setenv("SOURCES__API_KEY", SECRET)

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        yield {"id": 1}

    made = pipeline("earlier")
    made.run(orders())
    del orders
    assert made.last_trace is not None
    assert hidden(attach(), SECRET)


def test_without_any_use_of_dlt_there_is_nothing_to_look_for(attach, monkeypatch):
    monkeypatch.setattr(gc, "get_objects", lambda: pytest.fail("looked at every object of the process"))
    assert dlt_logger.LOGGER is None
    assert attach().values == frozenset()


def test_a_failure_to_learn_does_not_disturb_the_resolution(attach, monkeypatch):
    learned = attach()

    def fail(_: str) -> None:
        message = "no room"
        raise RuntimeError(message)

    monkeypatch.setattr(learned.redactor, "add", fail)
    monkeypatch.setenv("API_KEY", SECRET)
    assert resolve_configuration(ApiConfiguration()).api_key == SECRET
    assert {str(error) for error in learned.errors} == {"no room"}
    learned.errors.clear()

    def fail_too(_: Exception) -> None:
        raise RuntimeError

    monkeypatch.setattr(learned.learner, "_on_error", fail_too)
    assert dlt.secrets["api_key"] == SECRET


def test_a_field_that_cannot_be_read_does_not_hide_the_next_one(learned):
    @configspec
    class Broken(BaseConfiguration):
        first_secret: TSecretStrValue = None  # type: ignore[assignment]
        second_secret: TSecretStrValue = None  # type: ignore[assignment]

        def __getattribute__(self, name: str) -> Any:
            if name == "first_secret" and object.__getattribute__(self, "__is_resolved__"):
                raise RuntimeError
            return super().__getattribute__(name)

    config = Broken()
    config.second_secret = SECRET
    config.__is_resolved__ = True
    assert list(secrets_in(config)) == [SECRET]


def test_dlt_answers_and_fails_as_without_us(learned, monkeypatch):
    with pytest.raises(ConfigFieldMissingException) as caught:
        resolve_configuration(ApiConfiguration())
    assert caught.value.fields == ["api_key"]
    with pytest.raises(KeyError):
        dlt.secrets["nothing.here"]
    with pytest.raises(TypeError):
        BaseConfiguration.call_method_in_mro(ApiConfiguration())  # type: ignore[call-arg]
    learned.errors.clear()
    assert ApiConfiguration().call_method_in_mro(method_name="on_resolved") is None  # type: ignore[func-returns-value]
    assert dlt.secrets.get("nothing.here") is None


def methods() -> tuple[Any, ...]:
    return (
        vars(BaseConfiguration)["call_method_in_mro"],
        vars(TraceLogContext)["log"],
        vars(_SecretsAccessor).get("_get_value"),
    )


def test_detaching_leaves_no_attribute_on_the_classes_of_dlt(attach):
    """Some are exempt from the look at assignments."""
    owners = DestinationCapabilitiesContext, ConfigSectionContext
    learned = attach()
    assert all(vars(owner).get("__setattr__") is object.__setattr__ for owner in owners)
    learned.learner.detach()
    assert all("__setattr__" not in vars(owner) for owner in (BaseConfiguration, *owners))


def test_detaching_restores_the_methods_of_dlt(attach, monkeypatch):
    before = methods()
    learned = attach()
    assert all(now is not then for now, then in zip(methods(), before, strict=True))
    learned.learner.detach()
    assert methods() == before
    monkeypatch.setenv("API_KEY", SECRET)
    resolve_configuration(ApiConfiguration())
    assert learned.values == frozenset()
    learned.learner.detach()


def test_a_wrapper_that_came_after_ours_stays_and_ours_goes_to_sleep(attach, monkeypatch):
    learned = attach()
    calls: list[str] = []
    ours = BaseConfiguration.call_method_in_mro

    def theirs(config: BaseConfiguration, method_name: str) -> None:
        calls.append(method_name)
        ours(config, method_name)

    monkeypatch.setattr(BaseConfiguration, "call_method_in_mro", theirs)
    learned.learner.detach()
    assert vars(BaseConfiguration)["call_method_in_mro"] is theirs
    resolve_configuration(ApiConfiguration(), explicit_value={"api_key": SECRET})
    assert "on_resolved" in calls
    assert learned.values == frozenset()
    again = attach()
    resolve_configuration(ApiConfiguration(), explicit_value={"api_key": "second-secret"})
    assert "second-secret" in again.values
    again.learner.detach()
    monkeypatch.undo()
    learned.learner.detach()


def test_attaching_twice_is_attaching_once(attach):
    before = methods()
    learned = attach()
    learned.learner.attach()
    learned.learner.detach()
    assert methods() == before


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("Server=db;UID=u;PWD=hunter2;Encrypt=yes", {"hunter2"}),
        ("Server=db;PWD={a;b}}c};x=1", {"{a;b}}c}", "a;b}c"}),
        ("host=db password='a b' user=u", {"'a b'", "a b"}),
        ("DefaultEndpointsProtocol=https;AccountName=n;AccountKey=abc==", {"abc=="}),
        ("jdbc:sqlserver://db:1433;user=u;password=hunter2;", {"hunter2"}),
        ("jdbc:postgresql://db/x?user=u&password=hun%20ter", {"hun%20ter", "hun ter"}),
        ("md:shop?motherduck_token=hunter2", {"hunter2"}),
        ("https://k3y@sentry.example/1", {"k3y"}),
        ("postgresql://user_name@db/x", set()),
        ("abfss://container@account.dfs.core.windows.net/x", set()),
        ("redis://:hun%2Fter@cache/0", {"hun%2Fter", "hun/ter"}),
        ('{"client_secret": "abc", "nested": {"password": "def", "host": "h"}}', {"abc", "def"}),
        ("{broken password=hunter2", {"hunter2"}),
        ({"host": "h", "password": "p", "list": [{"token": "t"}]}, {"p", "t"}),
        ("plain text", set()),
        (b"password=hunter2", {"hunter2"}),
        (5, set()),
    ],
)
def test_a_value_that_is_no_secret_as_a_whole_may_contain_some(value, expected):
    assert set(secrets_in(value, whole=False)) - {""} == expected


def test_a_value_that_is_a_secret_as_a_whole_gives_itself_and_what_is_in_it():
    assert set(secrets_in("x://u:hunter2@h")) == {"x://u:hunter2@h", "hunter2"}
    assert set(secrets_in([b"one", ("two", {"three"}), 4, 5.5, None, True])) == {"one", "two", "three", "4"}
    assert set(secrets_in({"user": "u", "HOST": "h", "x": {"y": "z"}, 1: "one"})) == {"z", "one"}


def test_values_within_values_are_searched_to_a_depth():
    value: Any = "deep-secret"
    for _ in range(100):
        value = [value]
    assert list(secrets_in(value)) == []
    cyclic: dict[str, Any] = {"password": "p"}
    cyclic["self"] = cyclic
    assert set(secrets_in(cyclic)) == {"p"}


def test_connection_strings_of_several_hosts_give_their_password():
    assert "hunter2" in set(
        secrets_in("mongodb://u:hunter2@h1:27017,h2:27017/x?authSource=admin", whole=False)
    )


def test_a_first_use_of_dlt_through_dltobs_learns_its_runtime_without_a_walk_through_all_objects(
    monkeypatch,
):
    """The walk would cost every script, and there is nothing yet for it to find."""
    monkeypatch.setenv("RUNTIME__SLACK_INCOMING_HOOK", f"https://hooks.slack.example/{SECRET}")
    monkeypatch.setattr(gc, "get_objects", lambda: pytest.fail("looked at every object of the process"))
    dltobs.configure(console="off")
    redactor = _state.current_redactor()
    assert any(SECRET in value for value in redactor.values)


def test_a_new_set_up_knows_what_the_old_one_had_learned(monkeypatch):
    """Whatever has become of the objects meanwhile."""
    monkeypatch.setenv("API_KEY", SECRET)
    dltobs.configure(console="off")
    resolve_configuration(ApiConfiguration())
    dltobs.configure(console="off", environment="staging")
    assert SECRET in _state.current_redactor().values


def test_a_credentials_object_is_known_as_soon_as_it_is_made(learned):
    """dlt never resolves it: the user hands it to a client."""
    auth = APIKeyAuth(name="appid", api_key="explicit-key-9981", location="query")
    BearerTokenAuth("explicit-bearer-77")
    HttpBasicAuth("someone", "explicit-password-1")
    ConnectionStringCredentials("postgresql://loader:explicit%2Fpw-22@db.example.com/db")
    assert hidden(learned, "explicit-key-9981", "explicit-bearer-77", "explicit-password-1", "explicit/pw-22")
    assert shown(learned, "someone", "loader", "db.example.com")
    auth.api_key = "explicit-later-3"  # type: ignore[assignment]
    assert hidden(learned, "explicit-later-3")


def test_a_field_that_is_given_a_kind_of_text_of_its_own_is_known(learned):
    """As the strings of a TOML document are."""

    class Text(str):
        __slots__ = ()

    BearerTokenAuth(Text("explicit-derived-5"))
    assert hidden(learned, "explicit-derived-5")


def test_an_assignment_that_dlt_defines_itself_is_put_back(attach, monkeypatch):
    """No version does, but one may."""

    def own(config: object, name: str, value: object) -> None:
        object.__setattr__(config, name, value)

    monkeypatch.setattr(BaseConfiguration, "__setattr__", own, raising=False)
    attach().learner.detach()
    assert vars(BaseConfiguration)["__setattr__"] is own


def test_fields_are_set_by_dlt_alone_again_after_detach(attach):
    before = vars(BaseConfiguration).get("__setattr__")
    made = attach()
    made.learner.detach()
    assert vars(BaseConfiguration).get("__setattr__") is before


def test_a_password_that_is_a_word_renames_nothing(monkeypatch, pipeline, caplog):
    """Pipeline, dataset, resource, table and file keep their names, and one warning says why."""
    monkeypatch.setenv("SOURCES__SHOP__PASSWORD", "analytics")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")

    @dlt.source(name="shop")
    def shop(password: str = dlt.secrets.value):
        @dlt.resource(name="analytics_events")
        def events():
            yield {"id": 1}
            message = f'relation "analytics.events" in /srv/analytics/etl.py: password={password}'
            raise ValueError(message)

        return events

    for _ in range(2):
        with pytest.raises(PipelineStepFailed):
            pipeline("shop", dataset_name="analytics_data").run(shop())
    failure = sink.runs[-1].failure
    assert failure.resource == "analytics_events"
    assert failure.message == 'relation "analytics.events" in /srv/analytics/etl.py: password=***'
    warnings = [record.message for record in caplog.records if "ordinary word" in record.message]
    assert len(warnings) == 1
    assert "analytics" not in warnings[0]


def test_a_word_that_no_name_of_the_run_contains_is_redacted(monkeypatch, pipeline, caplog):
    monkeypatch.setenv("SOURCES__SHOP__PASSWORD", "analytics")
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")

    @dlt.source(name="shop")
    def shop(password: str = dlt.secrets.value):
        @dlt.resource
        def events():
            message = f"wrong: {password}"
            raise ValueError(message)
            yield

        return events

    with pytest.raises(PipelineStepFailed):
        pipeline("shop", dataset_name="analyticsdata").run(shop())
    assert sink.run.failure.message == "wrong: ***"
    assert not [record for record in caplog.records if "ordinary word" in record.message]


def test_only_words_are_left_for_a_name():
    """What has a digit is no ordinary word, whatever is called by it."""
    redactor = Redactor(["hunter2-secret", "shop_data", "events"])
    assert not redactor.keep_names("hunter2-secret", "shop_data_2", "/srv/app")
    assert redactor.text("hunter2-secret shop_data events") == "*** *** ***"
    before = redactor.size
    assert redactor.keep_names("shop_data", "/srv/events/etl.py")
    assert redactor.size > before
    assert redactor.text("hunter2-secret shop_data events") == "*** shop_data events"
    assert redactor.values == {"hunter2-secret"}
    redactor.add("weekly")
    assert redactor.text("weekly") == "***"
    redactor.keep_names("report_weekly.sql")
    assert redactor.text("weekly password=weekly") == "weekly password=***"
    learned_later = Redactor()
    learned_later.keep_names("report_weekly.sql")
    learned_later.add("weekly")
    assert learned_later.text("weekly") == "weekly"


def test_what_duckdb_leaves_of_a_secret_that_it_abbreviates_is_not_in_the_failure(monkeypatch, pipeline):
    secret = "Zk4q9Tw1bN7xUe2RmLs8VhCy3GdKf6JpQa5WoXiE0BtHz9Mv2Ycr8Ln4Pu6Ds1Fj"
    monkeypatch.setenv("API_KEY", secret)
    sink = RecordingSink()
    dltobs.configure(sinks=[sink], console="off")

    @dlt.resource
    def orders(api_key: str = dlt.secrets.value):
        import duckdb

        yield {"id": 1}
        # a comma is missing after the secret
        duckdb.sql(
            "CREATE SECRET lake (TYPE S3, KEY_ID 'k', REGION 'eu-central-1', ENDPOINT 's3.example.com', "
            f"URL_STYLE 'path', SECRET '{api_key}' USE_SSL false, SCOPE 's3://bucket/path/to/somewhere')"
        )

    with pytest.raises(PipelineStepFailed):
        pipeline("shop").run(orders())
    told = repr(sink.run)
    assert "LINE 1" in told
    assert not [piece for at in range(len(secret) - 7) if (piece := secret[at : at + 8]) in told]
