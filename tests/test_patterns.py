"""What is taken for a secret by its looks or its name, and what is not."""

from __future__ import annotations

import json
import time

import dlt
import pytest
from dlt.common.configuration.exceptions import ConfigFieldMissingException
from dlt.common.configuration.specs import ConnectionStringCredentials
from hypothesis import given
from hypothesis import strategies as st

from dltobs import Redactor
from dltobs._redaction.names import KeyNames
from dltobs._redaction.patterns import MARKER, PATTERN_RULES

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N_XgL0n3I9P"
KEY = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAKC\n-----END RSA PRIVATE KEY-----"
PLAIN = Redactor()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("password=hunter2", "password=***"),
        ("password = hunter2 or so", "password = *** or so"),
        ("PASSWORD: hunter2", "PASSWORD: ***"),
        ("dbPassword=>x", "dbPassword=>***"),
        ("my_api_key: x", "my_api_key: ***"),
        ("apiKey=x, ApiKey=x, API-KEY=x, apikey=x", "apiKey=***, ApiKey=***, API-KEY=***, apikey=***"),
        ("X-Api-Key: abc", "X-Api-Key: ***"),
        ("secret=a,b;c&d next", "secret=*** next"),
        ("user=u,password=a,host=h", "user=u,password=***,host=h"),
        ("user=u;password=a;host=h", "user=u;password=***;host=h"),
        ("(password=abc)", "(password=***)"),
        ("Creds(user='u', password='a\\'b', port=1)", "Creds(user='u', password='***', port=1)"),
        ('"token": "abc"', '"token": "***"'),
        ('{"token": "a\\"b\\\\", "user": "u"}', '{"token": "***", "user": "u"}'),
        ("{'token': b'abc', 'x': 1}", "{'token': b'***', 'x': 1}"),
        (r"\"password\": \"abc\", \"user\": \"u\"", r"\"password\": \"***\", \"user\": \"u\""),
        (r"\"password\": \"a\\\"b\\\\\", \"user\": 1", r"\"password\": \"***\", \"user\": 1"),
        ("`token`: `abc123` x", "`token`: `***` x"),
        ("os.environ['API_TOKEN'] = 'abc'", "os.environ['API_TOKEN'] = '***'"),
        ('password="cut off here', 'password="*** off here'),
        ('"secrets": ["abc", "def"], "n": 1', '"secrets": [***], "n": 1'),
        ("password=4711", "password=***"),
        ("host=db password=password user=u", "host=db password=*** user=u"),
        ("smtp_pass='abc' pass=abc123", "smtp_pass='***' pass=***"),
        ("password=a\\b\\nnext line", "password=***\\nnext line"),
        ("dlt --api-key abc run --password=x", "dlt --api-key *** run --password=***"),
        ("AccountKey=abc==;EndpointSuffix=core", "AccountKey=***;EndpointSuffix=core"),
        ("Driver={ODBC};UID=sa;PWD={a;b}}c};Encrypt=yes", "Driver={ODBC};UID=sa;PWD=***;Encrypt=yes"),
        ("Driver={ODBC};UID=sa;PWD=a$b;Encrypt=yes", "Driver={ODBC};UID=sa;PWD=***;Encrypt=yes"),
        ("host=db password='a b' user=u", "host=db password='***' user=u"),
        ("host=db password=ab user=u", "host=db password=*** user=u"),
        ("webhook_url: https://x.example/abc", "webhook_url: ***"),
        ("invalid credentials: hunter2", "invalid credentials: ***"),
        (
            "CREATE SECRET (TYPE s3, SECRET 'abc', KEY_ID 'k')",
            "CREATE SECRET (TYPE s3, SECRET '***', KEY_ID 'k')",
        ),
    ],
)
def test_the_value_after_a_secret_name_is_withheld(text, expected):
    assert PLAIN.text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Authorization: Bearer x", "Authorization: ***"),
        ("Authorization: abc, Accept: y", "Authorization: ***, Accept: y"),
        ("{'Authorization': 'Bearer x', 'Accept': 'y'}", "{'Authorization': '***', 'Accept': 'y'}"),
        ("Proxy-Authorization: Negotiate YII=", "Proxy-Authorization: ***"),
        ("-H 'Authorization: Bearer abc' -d x", "-H 'Authorization: ***' -d x"),
        ("Cookie: a=b; c=d\r\nAccept: y", "Cookie: ***\r\nAccept: y"),
        ("Set-Cookie: sid=1; Path=/", "Set-Cookie: ***"),
        ("sent Bearer abcdef123456.", "sent Bearer ***"),
        ("bearer%20abcdef123456 x", "bearer%20*** x"),
        ("sent Basic dXNlcjpwYXNz!", "sent Basic ***!"),
        ("a JWT " + JWT + " here", "a JWT *** here"),
        ("AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/x", "AWS4-HMAC-SHA256 Credential=***"),
    ],
)
def test_headers_and_tokens_are_withheld(text, expected):
    assert PLAIN.text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("postgresql://loader:pw@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://loader:p@ss/w?r#d@host:5432/db", "postgresql://***@host:5432/db"),
        ("postgresql://loader:p@ss@host/db?x=1", "postgresql://***@host/db?x=1"),
        ("mysql://u:pa/ss@db/x", "mysql://***@db/x"),
        ("mysql://u:p@s/s@db.local/x", "mysql://***@db.local/x"),
        ("https://token@git.example/x.git", "https://***@git.example/x.git"),
        ("https://k3y@o1.ingest.sentry.io/42", "https://***@o1.ingest.sentry.io/42"),
        ("https://a:b@[::1]:80/x", "https://***@[::1]:80/x"),
        ("redis://:pw@cache", "redis://***@cache"),
        ('"postgres://u:p@h/d"', '"postgres://***@h/d"'),
        (r"\"postgres://u:p\\w@h/d\"", r"\"postgres://***@h/d\""),
        (
            "via https://proxy.example/https://u:p@h.example/",
            "via https://proxy.example/https://***@h.example/",
        ),
        ("a://u:p@h b://v:q@i", "a://***@h b://***@i"),
        ("sftp://bob:pw@h/x", "sftp://***@h/x"),
    ],
)
def test_the_user_info_of_urls_is_withheld(text, expected):
    assert PLAIN.text(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://x/?page=3&token=abc&q=1", "https://x/?page=3&token=***&q=1"),
        ("/p?key=a%20b#x", "/p?key=***#x"),
        ("/p?key=abc&code=4/0AX4XfWh-abcdefgh&sig=ghi", "/p?key=***&code=***&sig=***"),
        ("/p?X-Amz-Signature=abc&X-Amz-Security-Token=d", "/p?X-Amz-Signature=***&X-Amz-Security-Token=***"),
        ("/p?user[password]=abc", "/p?user[password]=***"),
        ("/p?sv=2022&se=2030&sig=abc%3D", "/p?sv=2022&se=2030&sig=***"),
        ("/p?apikey=a&client_secret=b&hapikey=c", "/p?apikey=***&client_secret=***&hapikey=***"),
        ("https://hooks.slack.com/services/T0/B0/abc", "https://hooks.slack.com/services/***"),
        (r"https:\/\/hooks.slack.com\/services\/T0\/B0\/abc", r"https:\/\/hooks.slack.com\/services\/***"),
        ("https://hooks.slack.com/workflows/T0/A0/1/abc x", "https://hooks.slack.com/workflows/*** x"),
        ("https://discord.com/api/webhooks/12/a-b_c", "https://discord.com/api/webhooks/***"),
        ("https://x.webhook.office.com/webhookb2/a@b/c 1", "https://x.webhook.office.com/*** 1"),
    ],
)
def test_query_values_and_webhooks_are_withheld(text, expected):
    assert PLAIN.text(text) == expected


@pytest.mark.parametrize(
    "secret",
    [
        "AKIAIOSFODNN7EXAMPLE",
        "AIzaSyA1234567890abcdefghijklmnopqrstuv",
        "ghp_abcdefghijklmnopqrst1234",
        "github_pat_abcdefghijklmnopqrst1234",
        "glpat-abcdefghijklmnop1234",
        "xoxb-1234567890-abcdef",
        "sk-proj-abcdefghijklmnop1234",
        "sk_live_abcdefghijklmnop1234",
        "dapi0123456789abcdef0123456789abcdef",
        "hf_abcdefghijklmnopqrstuvwx",
        "ya29.a0AfH6SMBabcdefghijkl",
        JWT,
    ],
)
@pytest.mark.parametrize("text", ["used {} here", "{}", '"{}"', "k={}, x"])
def test_the_keys_of_known_services_are_withheld(text, secret):
    assert PLAIN.text(text.format(secret)) == text.format(MARKER)


def test_a_private_key_is_withheld_and_what_follows_it_is_not():
    assert PLAIN.text(f"a {KEY}\nb") == (
        "a -----BEGIN RSA PRIVATE KEY-----***-----END RSA PRIVATE KEY-----\nb"
    )
    assert "MII" not in PLAIN.text(repr({"k": KEY}))
    assert "MII" not in PLAIN.text(KEY[:50])
    assert json.loads(PLAIN.text(json.dumps({"k": KEY, "x": 1})))["x"] == 1


@pytest.mark.parametrize(
    "text",
    [
        "primary_key and foreign_key: id, merge_key='id'",
        '{"primary_key": "id", "token_count": 5, "max_tokens": 4096, "key": "value"}',
        "token_count: 5, tokens=12.5, session_ids=3",
        "2024-05-01 12:00:00,123|[INFO]|4242|123456|dlt|load.py|start_new_jobs:210|Will load additional 3 jobs",
        "2024-05-01T12:00:00.123456Z 2024-05-01T12:00:00+02:00",
        "/home/u/.dlt/secrets.toml: No such file or directory",
        "In secrets.toml key API_KEY was not found",
        "https://api.example.com/v1/items?page=3&limit=100&sort_key=id&keyword=x&author=bob&inside=1",
        "https://x.example/@me/a?mail=a@b.example",
        "http://localhost:8080/a@b",
        "abfss://container@account.dfs.core.windows.net/path",
        "ssh://git@github.com/x/y.git and git+ssh://git@github.com/x",
        "s3://bucket/key=1/part@2.parquet",
        "duckdb:///tmp/shop.duckdb",
        "mailto:someone@example.com",
        "schema hash: 8KZ2yQkJ3cRjOQbhqxv3X7h5cbO6z0A5T0dGJxYkY3E=",
        "load_id 1714558200.123456 table _dlt_loads version_hash zR9jQmY=",
        "sqlglot.errors.ParseError: Unexpected token: foo",
        "Invalid expression / Unexpected token. Line 1, Col: 5.",
        "invalid credentials: user unknown",
        "the signature: foo(a, b)",
        "test pass: ok, bypass=1, compass: n",
        "api_key: str = dlt.secrets.value",
        "password: Optional[str] = None",
        "password = os.environ['X'] or self.password or dlt.secrets['a.b']",
        "create(api_key=api_key, token=None, password=self.password)",
        "HTTP Basic Authentication failed; use Basic auth",
        "Bearer token missing",
        "token_url=https://auth.example/token tokenizer: x token_type: bearer",
        "{'credentials': {'host': 'h', 'port': 1}}",
        "author: Ann, authors=2, keys=3, keyboard: x",
        "100% of 5% (60.0%) | Resources: 3/5",
        "path C:\\Users\\me\\secret",
        "Asia, sk-learn, the basics, xoxo",
    ],
)
def test_ordinary_text_is_not_damaged(text):
    assert PLAIN.text(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "Loading table tokens: started",
        "Loading table password: done",
        "column password: required",
        'Table "tokens" has 12 columns',
        "loaded up to password_changed_at=2024-05-01T00:00:00Z",
        "password_changed_at > '2024-05-01' AND has_password = true",
        '{"has_password": "yes", "token_refreshed_at": "2024-05-01", "next_page_token": "p2", "authorization_status": "pending"}',
        '{"nextPageToken": "CAUQAA", "pageToken": "abc", "NextToken": "x1", "ContinuationToken": "1ueGcxLPRx1Tr"}',
        "GET https://api.example.com/users?code=DE&page_token=p2",
        "GET https://api.example.com/users?code=EUR&currency_code=USD&token_type=bearer&next_page_token=abc123",
        "GET /v1/orders?page=3&sort_key=id&author=bob&keyword=x&session_count=4",
        "https://storage.example.com/a.csv?versionId=3&X-Amz-Algorithm=AWS4-HMAC-SHA256&X-Amz-Date=20240501T000000Z&X-Amz-Expires=3600&X-Amz-SignedHeaders=host",
        "botocore.exceptions.NoCredentialsError: Unable to locate credentials",
        "google.auth.exceptions.DefaultCredentialsError: Your default credentials were not found.",
        "jwt.exceptions.InvalidTokenError: Not enough segments",
        "oauthlib.oauth2.rfc6749.errors.TokenExpiredError: (token_expired)",
        "botocore.exceptions.TokenRetrievalError: Error when retrieving token from sso: Token has expired",
        "sqlglot.errors.TokenError: Missing ' from 1:7",
        'psycopg2.errors.InvalidPassword: connection to server at "db" (10.0.0.1), port 5432 failed: FATAL: password authentication failed for user "loader"',
        'psycopg2.errors.UndefinedColumn: column "token" of relation "users" does not exist',
        "sslmode=require application_name=orders connect_timeout=10 keepalives=1",
        "snowflake: account=xy12345.eu-west-1 warehouse=COMPUTE_WH role=LOADER authenticator=externalbrowser",
        "CREATE TABLE users (id BIGINT, password_hash VARCHAR, token VARCHAR(255), secret TEXT NOT NULL)",
        "SELECT token, password, api_key FROM users WHERE token IS NOT NULL",
        "ALTER TABLE users ADD COLUMN api_key text, ADD COLUMN password_changed_at timestamp",
        "INSERT INTO tokens (id, token) VALUES",
        "primary_key=('id',) merge_key=None write_disposition=append",
        '{"name": "password", "data_type": "text", "nullable": true}',
        "{'password': {'name': 'password', 'data_type': 'text'}, 'api_key': {'name': 'api_key', 'data_type': 'text'}}",
        "In schema: shop: In Table: `users` Column: `password` . Contract on `columns` with mode `freeze` is violated.",
        "dlt.common.configuration.exceptions.ConfigFieldMissingException: Missing 1 field(s) in configuration `ShopConfiguration`: `api_key`",
        "(secrets.toml, sources.shop.api_key)",
        "(Environment Variables, SOURCES__SHOP__API_KEY)",
        "Provider `secrets.toml` loaded values from locations:",
        "resolved from secret: arn:aws:secretsmanager:eu-central-1:123456789012:secret:prod/shop-AbCdEf",
        "projects/acme/secrets/shop_api_key/versions/latest",
        "secret_name=prod/shop secret_version=3 secret_arn=arn:aws:x",
        "max_tokens=4096, prompt_tokens: 1,234, completion_tokens=12.5k, total_tokens: 2%",
        "token_count: 5, token_limit=4096, tokens_used: 17",
        "cookie_consent=accepted cookie_policy: strict cookiecutter: 2.1 passwordless=yes",
        "pass_rate=95.5% bypass=1 compass: north first_pass: ok",
        "signature_version=s3v4 signature_algorithm=RS256 token_endpoint=https://x/token",
        "password_policy=strong password_reset_required=false must_change_password=no is_secret=yes",
        "requests.exceptions.HTTPError: 404 Client Error: Not Found for url: https://api.example.com/v1/tokens?page=2",
        "HTTP 401: the access token is missing or has expired",
        "Authorization header missing",
        "basic auth is disabled",
        "2024-05-01 12:00:00,123|[INFO]|42|123|dlt|load.py|run:210|Extracting resource tokens",
        "Files: 3/3 (100.0%) | Time: 0.03s | Rate: 88.11/s",
        "schema version hash: 8KZ2yQkJ3cRjOQbhqxv3X7h5cbO6z0A5T0dGJxYkY3E=",
        "load package 1714558200.123456 job tokens.8f3a2b1c9d.0.parquet COMPLETED",
        "destination.bigquery.credentials.project_id=acme-data location=EU",
        "azure_storage_account_name=acmelake container=raw",
        "AWS_REGION=eu-central-1 AWS_ACCESS_KEY_ID missing",
        "s3://bucket/tokens/2024/05/01/part-0001.parquet",
        "merge key: id, token column: none",
        "secretary: Ann, author: Bob, keyboard: qwerty",
        "kid=1 alg=RS256 typ=JWT",
        "Retrying in 5 s: token refresh",
        "unique token `abc` in line",
        "password: Optional[str] = None",
        "`?key=***: 404 Client Error",
        "tokens: [1, 2, 3]",
        "secrets: 3 found, tokens: none",
        "access_key_type: hmac",
        "InvalidPassword: connection refused",
        "load tokens.8f3a2b1c9d.0.parquet: failed, tokens.8f3a2b1c9d.0.insert_values: no such table",
        "credentials.json: no such file, secrets.yaml: empty, get_token.py: line 3",
        "extract tokens: 3 items, *tokens*: 12 rows, `tokens`: 1,234 rows, tokens: append",
    ],
)
def test_ordinary_lines_that_speak_of_secrets_are_not_damaged(text):
    """When something happened, whether it did, what a thing is called: none of this is a secret."""
    assert PLAIN.text(text) is text


@pytest.mark.parametrize(
    "text",
    [
        "client_secret={}",
        '"access_token": "{}"',
        '{"refresh_token": "{}"}',
        "x-api-key: {}",
        "Authorization: Bearer {}",
        "authorization={}",
        '"private_key": "{}"',
        "https://x.blob.core.windows.net/c/b?sv=2022&sig={}%3D",
        "https://b.s3.amazonaws.com/k?X-Amz-Signature={}&X-Amz-Expires=3",
        "https://b.s3.amazonaws.com/k?X-Amz-Security-Token={}",
        "Cookie: session={}; a=b",
        "Set-Cookie: {}",
        "?code={}{}&state=1",
        "?key={}: 404 Client Error",
        "aws_secret_access_key={}",
        "SNOWFLAKE_PASSWORD={}",
        "account_key: {}",
        'password="{}"',
        "password: {}: connection refused",
        "motherduck_token={}",
        "csrf_token={}",
        "page_password={}",
        "user_token: {}",
        "API_KEY_STRIPE={}",
        "token_prod: {}",
        "postgresql://u:{}@h/db",
        "PASSWORD '{}'",
        "CREATE SECRET (TYPE S3, SECRET '{}')",
        "--token {}",
        "table users password: {}",
        "hasura_admin_secret={}",
        "issuer_password={}",
        "use_case_token={}",
    ],
)
def test_a_secret_that_nobody_resolved_is_withheld_by_its_name(text):
    clean = PLAIN.text(text.replace("{}", "S3cr3tV4lue"))
    assert "S3cr" not in clean
    assert "***" in clean


def test_names_that_only_speak_of_a_secret_are_left_in_values_of_any_shape():
    value = {
        "has_password": "yes", "password_changed_at": "2024-05-01", "passwordChangedAt": "2024-05-01",
        "next_page_token": "p2", "pageToken": "p2", "authorization_status": "pending", "isSecret": "no",
        "token_refreshed_at": "2024-05-01", "token_type": "bearer",
    }  # fmt: skip
    assert PLAIN.redact(value) is value
    assert PLAIN.redact({"user_token": "x", "clientSecret": "y"}) == {
        "user_token": "***",
        "clientSecret": "***",
    }


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("GET /p?key=hunter2-key: 404 Client Error", "GET /p?key=***: 404 Client Error"),
        ("(see https://x/p?token=hunter2)", "(see https://x/p?token=***)"),
        ("https://x/p?a=1&sig=a.b:c, then", "https://x/p?a=1&sig=***, then"),
        ("password=hunter2: connection refused", "password=***: connection refused"),
        ("password=a:b:c next", "password=*** next"),
    ],
)
def test_what_follows_a_value_stays(text, expected):
    assert PLAIN.text(text) == expected
    assert Redactor(["hunter2-key"]).text(text) == expected


def test_what_dlt_says_of_a_missing_secret_is_not_damaged():
    with pytest.raises(ConfigFieldMissingException) as caught:
        dlt.common.configuration.resolve_configuration(ConnectionStringCredentials(), sections=("x",))
    for text in (str(caught.value), repr(caught.value)):
        assert PLAIN.text(text) == text

    @dlt.resource
    def items(api_key: str = dlt.secrets.value, password: str = dlt.secrets.value):
        yield api_key

    with pytest.raises(ConfigFieldMissingException) as caught:
        list(items())
    assert PLAIN.text(str(caught.value)) == str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "is_covered"),
    [
        ("password", "x", True),
        ("PASSWORD", b"x", True),
        ("db_password", 4711, True),
        ("token", 4711, False),
        ("token", "4711", True),
        ("password", None, False),
        ("password", True, False),
        ("token_count", "5", False),
        ("primary_key", "id", False),
        ("webhook_url", "x", True),
        ("token_url", "x", False),
        ("dsn", "x", True),
        ("authorization", "x", True),
        ("sentry_dsn", "x", True),
        ("address", "x", False),
    ],
)
def test_names_cover_texts_and_few_of_them_numbers(name, value, is_covered):
    assert KeyNames().covers(name, value) is is_covered


def test_own_names_cover_everything_that_contains_them():
    names = KeyNames(["kunde.nr", " ", "token_count"])
    assert names.covers("MEINE_KUNDE.NR", 5)
    assert not names.covers("kunde-nr", "x")
    assert names.covers("token_count", 5)
    assert Redactor(keys=["kunde.nr"]).text("kunde.nr=5 kundexnr=5") == "kunde.nr=*** kundexnr=5"


def test_every_rule_is_woken_by_one_of_its_literals():
    """A rule whose literals do not occur in what it matches would never run."""
    samples = [
        "postgres://u:p@h", "https://hooks.slack.com/services/T/B/x",
        "https://discord.com/api/webhooks/1/abc", "https://a.webhook.office.com/x", "Bearer abcdef123456",
        "Basic dXNlcjpwYXNz", JWT, "AKIAIOSFODNN7EXAMPLE", KEY,
    ]  # fmt: skip
    assert len(samples) == len(PATTERN_RULES)
    for rule, sample in zip(PATTERN_RULES, samples, strict=True):
        starts = [sample.index(literal) for literal in rule.literals if literal in sample]
        assert [span for span in rule.spans(sample, starts) if span[0] < span[1]]
        assert PLAIN.text(sample) != sample
        assert PLAIN.text(PLAIN.text(sample)) == PLAIN.text(sample)


PIECES = st.sampled_from(
    ["password", "token", "Authorization", "=", ":", ": ", " ", '"', "'", "\\", "\\\\", "://", "@", "u:p", "?", "&",
     "key=", "Bearer ", "Basic ", "dXNlcjpwYXNz", "eyJhbGciOiJIUzI1NiJ9.abcd", "***", "[", "]", "{", "}", ",", ";",
     "-----BEGIN PRIVATE KEY-----", "-----END", "\n", "abc123", "--", "None", "5", "hooks.slack.com/services/", "%20"]
)  # fmt: skip


@given(pieces=st.lists(PIECES, max_size=14))
def test_no_rule_finds_more_in_its_own_output_than_values_that_became_visible(pieces):
    """Rules see each other's output: after a second time nothing changes any more."""
    twice = PLAIN.text(PLAIN.text("".join(pieces)))
    assert PLAIN.text(twice) == twice


@given(value=st.text(st.characters(exclude_categories=["Cs", "Cc"]), min_size=1, max_size=20))
def test_a_json_document_stays_one_whatever_the_secret_is(value):
    for ensure_ascii in (True, False):
        document = json.dumps({"password": value, "n": 1}, ensure_ascii=ensure_ascii)
        assert json.loads(PLAIN.text(document)) == {"password": MARKER, "n": 1}
        nested = json.dumps({"body": document, "n": 2}, ensure_ascii=ensure_ascii)
        assert json.loads(json.loads(PLAIN.text(nested))["body"]) == {"password": MARKER, "n": 1}


@given(value=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=20))
def test_a_repr_stays_one_whatever_the_secret_is(value):
    assert PLAIN.text(repr({"password": value, "n": 1})) in (
        repr({"password": MARKER, "n": 1}),
        repr({"password": MARKER, "n": 1}).replace("'***'", '"***"'),
    )


ADVERSARIES = {
    "letters": "a",
    "stems": "token",
    "stems in a word": "token_",
    "stem and blanks": "token" + " " * 40,
    "stem and backslashes": "token" + "\\" * 40,
    "assignments": "password=",
    "open quotes": 'password="',
    "quotes and backslashes": 'password="' + "\\" * 7,
    "backslashes": "\\",
    "lists": "token=[",
    "braces": "pwd={",
    "colons": "://a:",
    "schemes": "://",
    "urls": "a://b:c/",
    "urls and ats": "a://b:c/@",
    "ats": "://a:b@",
    "ats in a path": "a://b/@",
    "questions": "?",
    "names": "?a",
    "stem in a query": "?key",
    "stems in a query": "?tokentoken&",
    "words in a query": "?sig",
    "bearers": "bearer ",
    "bearers and blanks": "bearer  ",
    "basics": "basic ",
    "tokens": "eyJ",
    "tokens with dots": "eyJaaaaaaaaa.",
    "tokens with dashes": "-eyJ",
    "keys": "sk-",
    "prefixes": "ghp_",
    "private keys": "-----BEGIN PRIVATE KEY-----",
    "ends": "PRIVATE KEY-----",
    "slack": "hooks.slack.com/",
    "cookies": "cookie:",
    "flags": "--token ",
    "quoted": "%20",
    "quoted percent": "%25",
    "commas": "password=a,",
    "secret": "hunter2-secret",
    "pieces of a secret": "hunter2-",
    "pieces at a cut": "hunter2-s...2-secret ",
    "tokens in JSON": '{"token": "t1", "url": "https://x/?sig=1"}, ',
    "colons in a query": "?key=:",
    "brackets in a query": ")?sig=",
    "queries": "?page_token=a&code=b&key=c: ",
    "entities in escapes": "\\u0026amp;%26",
    "braces with colons": "password={:",
}


@pytest.mark.parametrize("name", ADVERSARIES)
@pytest.mark.parametrize(
    ("before", "after"), [("", ""), ("password=x ?token= a://b:c@d bearer ", "@ @z\n"), ('password="', "")]
)
def test_the_time_for_a_repetitive_text_grows_with_its_length_and_not_faster(name, before, after):
    redactor = Redactor(["hunter2-secret"])

    def seconds(size: int) -> float:
        unit = ADVERSARIES[name]
        text = before + unit * (size // len(unit)) + after
        best = float("inf")
        for _ in range(2):
            start = time.thread_time()  # whatever else the machine does
            redactor.text(text)
            best = min(best, time.thread_time() - start)
        return best

    small, large = seconds(12_500), seconds(100_000)
    # eight times the text: quadratic work would take 64 times as long
    assert large < max(24 * small, 0.05)


@pytest.mark.parametrize(
    "text",
    ["Invalid token: token has expired", "token = client.get_token()", "PWD=/home/user", "secret = load()"],
)
def test_prose_and_code_that_name_a_secret_are_left_as_they_are(text):
    assert Redactor().text(text) == text


@pytest.mark.parametrize("text", ["token = abc(def", "PWD=/home/user1 pwd=/x", "password: a.b()c"])
def test_a_value_that_only_looks_like_code_is_still_withheld(text):
    assert "***" in Redactor().text(text)
