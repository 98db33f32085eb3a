"""connections.json: found, read, resolved, and never shown."""

import json
from pathlib import Path

import pytest

from nvisy_dagster.graph.connections import (
    build_connections,
    find_connections,
    load_connections,
    parse_connections,
    resolve_secrets,
)
from nvisy_dagster.graph.errors import GraphErrors
from nvisy_dagster.graph.redaction import Redactor
from nvisy_dagster.sdk.errors import ConfigError

PUBLISHED = Path(__file__).parent / "published" / "connections.json"


def test_references_are_resolved_and_listed_as_secrets():
    connections = build_connections({
        "lake": {"type": "s3", "bucket": "b", "secret_access_key": "${env:KEY}"},
        "db": {
            "type": "postgres",
            "url": "postgres://me:${env:PW}@h/db",
            "options": [1, "${env:O}"],
        },
    })
    resolved = resolve_secrets(connections, {"KEY": "k-1", "PW": "p w", "O": "opt"})
    assert resolved["lake"].fields == {"bucket": "b", "secret_access_key": "k-1"}
    assert resolved["lake"].secrets == {"k-1"}
    assert resolved["db"].fields["url"] == "postgres://me:p w@h/db"
    assert resolved["db"].fields["options"] == [1, "opt"]
    assert {"p w", "opt"} <= resolved["db"].secrets


def test_what_a_variable_holds_is_not_a_reference_again():
    connections = build_connections({"a": {"type": "s3", "key": "${env:A}"}})
    resolved = resolve_secrets(connections, {"A": "${env:B}", "B": "secret"})
    assert resolved["a"].fields["key"] == "${env:B}"


def test_a_doubled_dollar_is_a_dollar():
    connections = build_connections({"a": {"type": "s3", "key": "x$${env:A}"}})
    assert resolve_secrets(connections, {})["a"].fields["key"] == "x${env:A}"


def test_missing_variables_are_all_named_with_connection_and_field():
    connections = build_connections({
        "a": {"type": "s3", "nested": {"secret": "${env:ONE}"}, "key": "${env:SET}"},
        "b": {"type": "qdrant", "api_key": "${env:TWO}"},
    })
    with pytest.raises(ConfigError) as caught:
        resolve_secrets(connections, {"SET": "do-not-show"})
    text = str(caught.value)
    assert 'connection "a", field "nested.secret": the environment variable ONE is not set' in text
    assert '$.b.api_key: connection "b", field "api_key": the environment variable TWO' in text
    assert "do-not-show" not in text


def test_only_the_connections_that_are_used_need_their_variables():
    connections = build_connections({
        "a": {"type": "s3", "key": "${env:MISSING}"},
        "b": {"type": "s3", "key": "${env:B}"},
    })
    assert set(resolve_secrets(connections, {"B": "x"}, ["b", "undefined"])) == {"b"}


@pytest.mark.parametrize("store", ["aws", "vault", "azure"])
def test_a_store_to_come_says_what_to_use_today(store):
    connections = build_connections({"a": {"type": "s3", "key": f"${{{store}:path#field}}"}})
    with pytest.raises(ConfigError, match=rf"'{store}' are not available yet.*use \$\{{env:NAME"):
        resolve_secrets(connections, {})


def test_literal_secrets_are_listed_too():
    connections = load_connections(PUBLISHED)
    environ = {"S3_SECRET": "s3-s", "OPENAI_API_KEY": "sk-1", "PG_PASSWORD": "pg-p"}
    resolved = resolve_secrets(connections, environ)
    secrets = {secret for one in resolved.values() for secret in one.secrets}
    assert {"literal-secret", "AKIAEXAMPLE", "s3-s", "sk-1", "pg-p"} <= secrets
    assert not {"eu-central-1", "lake", "reader"} & secrets
    url = build_connections({"a": {"type": "x", "address": "https://u:p%40ss@h/"}})
    assert resolve_secrets(url, {})["a"].secrets == {"p%40ss", "p@ss"}


def test_nothing_secret_is_in_a_repr():
    connections = load_connections(PUBLISHED)
    environ = {"S3_SECRET": "s3-s", "OPENAI_API_KEY": "sk-1", "PG_PASSWORD": "pg-p"}
    shown = repr(dict(connections)) + repr(resolve_secrets(connections, environ))
    for secret in ("literal-secret", "s3-s", "sk-1", "pg-p", "AKIAEXAMPLE"):
        assert secret not in shown


MISTAKES = {
    "array": ("[]", "$", "connections should be an object, not an array"),
    "no object": ('{"a": "x"}', "$.a", "should be an object, not a string"),
    "no type": ('{"a": {}}', "$.a", '"type" is missing'),
    "type that is no string": ('{"a": {"type": 1}}', "$.a", '"type" is a number'),
    "bad name": ('{"a b": {"type": "s3"}}', "$['a b']", '"a b" cannot name a connection'),
    "unknown store": (
        '{"a": {"type": "s3", "key": "${envv:X}"}}',
        "$.a.key",
        'unknown secret store "envv"',
    ),
    "no store": (
        '{"a": {"type": "s3", "key": "${X}"}}',
        "$.a.key",
        '"${X}" does not say where the value is',
    ),
    "no variable": (
        '{"a": {"type": "s3", "key": ["${env:}"]}}',
        "$.a.key[0]",
        "\"\" cannot name what 'env' holds",
    ),
    "unknown published type": (
        '{"a": {"type": "s4", "credentials": {}}}',
        "$.a.type",
        'unknown connection type "s4"',
    ),
    "unknown credential": (
        '{"a": {"type": "qdrant", "credentials": {"apiKee": "hush"}}}',
        "$.a.credentials.apiKee",
        'qdrant has no credential "apiKee"',
    ),
    "bad reference in credentials": (
        '{"a": {"type": "qdrant", "credentials": {"apiKey": "${X}"}}}',
        "$.a.credentials.apiKey",
        '"${X}" does not say where the value is',
    ),
    "beside credentials": (
        '{"a": {"type": "qdrant", "credentials": {}, "url": "hush"}}',
        "$.a.url",
        'unknown key "url"',
    ),
    "credentials that are no object": (
        '{"a": {"type": "qdrant", "credentials": "hush"}}',
        "$.a.credentials",
        "should be an object, not a string",
    ),
    "not JSON": ('{"a": hush}', "$", "not JSON: expected a value"),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_a_mistake_is_told_with_its_place_and_no_value(name):
    document, path, message = MISTAKES[name]
    with pytest.raises(GraphErrors) as caught:
        parse_connections(document)
    (error,) = caught.value.errors
    assert (error.path, error.message) == (path, message)
    assert "hush" not in str(caught.value)


def test_the_nearest_file_is_found(tmp_path):
    inner = tmp_path / "graphs" / "team"
    inner.mkdir(parents=True)
    graph = inner / "g.json"
    assert find_connections(graph, tmp_path) is None
    top = tmp_path / "connections.json"
    top.write_text("{}")
    assert find_connections(graph) is None
    assert find_connections(graph, tmp_path / "graphs") is None
    assert find_connections(graph, tmp_path / "elsewhere") is None
    assert find_connections(graph, tmp_path) == top
    beside = inner / "connections.json"
    beside.write_text("{}")
    assert find_connections(graph, tmp_path) == find_connections(graph) == beside


def test_the_schema_key_is_no_connection():
    assert not parse_connections('{"$schema": "x"}')


def test_a_redactor_masks_secrets_however_they_are_quoted():
    secret = 'p@ss"w\\ö\n'
    scrub = Redactor([secret, "abc", "", "longer-secret", "longer"]).scrub
    forms = [secret, json.dumps(secret), repr(secret), "x=p%40ss%22w%5C%C3%B6%0A"]
    for form in forms:
        assert "ss" not in scrub(f"before {form} after")
    assert scrub("abc is too short") == "abc is too short"
    assert scrub("longer-secret longer") == "*** ***"
    assert "cEBzcyJ3XMO2" not in scrub("Basic cEBzcyJ3XMO2Cg==")


def test_a_redactor_masks_each_long_line_of_a_key():
    key = "-----BEGIN KEY-----\nMIIEvQIBADANBgkqhkiG9w0B\nend\n-----END KEY-----\n"
    assert Redactor([key]).scrub("line MIIEvQIBADANBgkqhkiG9w0B end") == "line *** end"


def test_a_redactor_without_secrets_changes_nothing():
    assert Redactor([]).scrub("text") == "text"
    assert "text" not in repr(Redactor(["text-secret"]))
