"""Embedding over HTTP: the wire, and every way in which it fails.

The server is our own stub of the documented format; the real API is not to be had in tests.
"""

import datetime as dt
import re
import traceback
from email.utils import format_datetime

import anyio
import numpy as np
import pyarrow as pa
import pytest
from pydantic import SecretStr, ValidationError
from servers.openai_stub import OpenAIStub, Refuse

from nvisy_connectors.ai.embed import Embed, EmbedParams, OpenAIConnection
from nvisy_connectors.ai.openai_errors import retry_after_seconds
from nvisy_connectors.ai.vectors import decode_response
from nvisy_dagster.sdk import ConfigError, DataError, TransientError
from nvisy_dagster.sdk.testing import ActionConformance

pytestmark = pytest.mark.anyio

KEY = "sk-test-0123456789"


def connection_to(stub: OpenAIStub, **fields: object) -> OpenAIConnection:
    return OpenAIConnection(api_key=SecretStr(KEY), base_url=stub.url, **fields)


def embed_with(stub: OpenAIStub, **fields: object) -> Embed:
    params = EmbedParams(model="stub", dimensions=48)
    return Embed(params, connection_to(stub, **fields), node_id="embed")


class TestEmbedOverHttp(ActionConformance):
    component = Embed
    primitive = "document"

    @pytest.fixture
    async def connection(self, anyio_backend):
        async with OpenAIStub(dimensions=48, request_seconds=0.01).serve() as stub:
            yield connection_to(stub)

    @pytest.fixture
    def params(self):
        return EmbedParams(provider="openai", model="stub", dimensions=48, batch_rows=2)

    @pytest.fixture
    def rows(self, documents):
        return documents([f"text {place} 🎉" for place in range(5)])


async def test_vectors_are_those_of_their_texts(stub, documents):
    texts = [f"text {place} é🎉" for place in range(300)]
    batch = documents(texts, tokens=pa.array(range(300), pa.int16()))
    async with embed_with(stub) as action:
        found = await action.apply(batch)
    vectors = found.column("vector").flatten().to_numpy().reshape(300, 48)
    np.testing.assert_array_equal(vectors, [stub.vectors.of(text) for text in texts])
    assert found.column("tokens").to_pylist() == list(range(300))
    assert set(found.column("model").to_pylist()) == {"stub"}


@pytest.mark.parametrize("behaviour", ["floats", "reversed"])
async def test_other_right_answers(stub, behaviour):
    stub.faults.append(behaviour)
    async with embed_with(stub) as action:
        vectors = await action.embed_texts(["a", "b", "c"])
    wanted = [stub.vectors.of(text) for text in "abc"]
    np.testing.assert_allclose(vectors, wanted, atol=1e-6)


async def test_the_request(stub):
    async with embed_with(stub, organization="org-7") as action:
        await action.embed_texts(["a", "b"])
    headers, body = stub.requests[-1]
    assert body == {
        "model": "stub",
        "input": ["a", "b"],
        "encoding_format": "base64",
        "dimensions": 48,
    }
    assert headers["authorization"] == f"Bearer {KEY}"
    assert headers["openai-organization"] == "org-7"
    assert headers["user-agent"].startswith("nvisy-dagster/")


async def test_a_models_own_dimension_is_not_asked_for():
    async with OpenAIStub(dimensions=1536).serve() as stub:
        connection = OpenAIConnection(base_url=f"{stub.url}/", model="text-embedding-3-small")
        async with Embed(EmbedParams(dimensions=1536), connection) as action:
            await action.embed_texts(["a"])
    headers, body = stub.requests[-1]
    assert "dimensions" not in body
    assert "authorization" not in headers


async def test_embed_texts_asks_in_batches(stub):
    connection = connection_to(stub)
    async with Embed(EmbedParams(model="stub", batch_rows=4), connection) as action:
        assert (await action.embed_texts([str(n) for n in range(10)])).shape == (10, 48)
    assert [len(body["input"]) for _, body in stub.requests] == [4, 4, 2]


async def refused(stub, fault, texts=("a", "b"), **fields):
    stub.faults.append(fault)
    with pytest.raises((ConfigError, DataError, TransientError)) as caught:
        async with embed_with(stub, **fields) as action:
            await action.embed_texts(texts)
    return caught.value


@pytest.mark.parametrize(
    ("fault", "tag"),
    [
        (Refuse(500, {"message": "boom"}), "server"),
        (Refuse(503), "server"),
        (Refuse(408), "server"),
        (Refuse(429, {"message": "slow down"}), "rate_limit"),
        ("reset", "connection"),
        ("truncate", "connection"),
        ("cut_json", "protocol"),
        ("missing", "protocol"),
        ("doubled", "protocol"),
        ("ragged", "protocol"),
        ("hang", "timeout"),
    ],
)
async def test_what_may_pass(stub, fault, tag):
    error = await refused(stub, fault, timeout_seconds=0.2)
    assert isinstance(error, TransientError)
    assert error.tag == tag
    assert error.remedy


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("http://127.0.0.1:9/v1", "cannot be reached: connection refused (check the connection's"),
        ("http://nowhere.invalid/v1", "cannot be reached: no machine is named 'nowhere.invalid' ("),
    ],
)
async def test_an_endpoint_that_is_not_there(url, reason):
    connection = OpenAIConnection(base_url=url, model="stub")
    async with Embed(EmbedParams(), connection) as action:
        with pytest.raises(TransientError) as caught:
            await action.embed_texts(["a"])
    assert f"{url}/embeddings {reason}" in str(caught.value)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (Refuse(500), r"the endpoint failed: HTTP 500: .*server's log"),
        ("hang", r"did not answer within 0\.2 s .*timeout_seconds"),
        ("truncate", "broke the connection off before its answer was complete"),
        ("cut_json", r"malformed: it is not JSON, or cut short .*base_url"),
        ("ragged", "malformed: its vectors have different dimensions"),
    ],
)
async def test_what_passed_not_is_told_in_words(stub, fault, words):
    assert re.search(words, str(await refused(stub, fault, timeout_seconds=0.2)))


async def test_it_works_again_after_each_fault(stub):
    async with embed_with(stub, timeout_seconds=0.2) as action:
        for fault in ("reset", "truncate", "hang", Refuse(500), "cut_json"):
            stub.faults.append(fault)
            with pytest.raises(TransientError):
                await action.embed_texts(["a"])
            vectors = await action.embed_texts(["a"])
            np.testing.assert_array_equal(vectors, [stub.vectors.of("a")])


def in_seconds(seconds: float) -> str:
    return format_datetime(dt.datetime.now(dt.UTC) + dt.timedelta(seconds=seconds), usegmt=True)


@pytest.mark.parametrize(
    ("headers", "low", "high"),
    [
        ({"Retry-After": "7"}, 7, 7),
        ({"Retry-After": "0.25"}, 0.25, 0.25),
        ({"retry-after-ms": "1500", "Retry-After": "2"}, 1.5, 1.5),
        ({"retry-after-ms": "soon", "Retry-After": "2"}, 2, 2),
        ({"Retry-After": in_seconds(600)}, 500, 601),
        ({"Retry-After": in_seconds(-600)}, 0, 0),
    ],
)
async def test_how_long_to_wait(stub, headers, low, high):
    error = await refused(stub, Refuse(429, {"message": "slow down"}, headers))
    assert low <= error.retry_after <= high


@pytest.mark.parametrize("value", ["", "soon", "-5", "nan", "inf", "1e999", "Wed, 99 Foo 2026"])
def test_nonsense_is_no_time_to_wait(value):
    assert retry_after_seconds({"Retry-After": value}) is None
    assert retry_after_seconds({}) is None


@pytest.mark.parametrize(
    ("fault", "tag", "words"),
    [
        (Refuse(401, {"message": "no such key"}), "auth", "api_key"),
        (Refuse(403, {"message": "not yours"}), "auth", "api_key"),
        (Refuse(404, {"message": "no such model"}), "not_found", "check the model 'stub'"),
        (Refuse(429, {"code": "insufficient_quota"}), "quota", "credit"),
        (Refuse(429, {"type": "insufficient_quota"}), "quota", "credit"),
        (Refuse(402), "quota", "credit"),
        (Refuse(400, {"message": "no", "param": "dimensions"}), "refused", "params"),
        (Refuse(400, {"message": "no matryoshka: dimensions is 48"}), "refused", "params"),
        (Refuse(307, headers={"Location": "http://127.0.0.1:9/"}), "refused", "base_url"),
        (Refuse(405), "refused", "base_url"),
    ],
)
async def test_what_the_user_must_change(stub, fault, tag, words):
    error = await refused(stub, fault)
    assert isinstance(error, ConfigError)
    assert error.tag == tag
    assert words in str(error)


@pytest.mark.parametrize("status", [400, 413, 422])
async def test_a_refused_batch_names_no_row_and_a_refused_text_its_own(stub, status):
    fault = Refuse(status, {"message": "invalid input"})
    error = await refused(stub, fault)
    assert isinstance(error, DataError)
    assert error.rows == {}
    assert "a batch of 2 texts" in str(error)
    error = await refused(stub, fault, texts=["a"])
    assert isinstance(error, DataError)
    assert error.rows == {0: f"HTTP {status}: invalid input"}


async def test_poison_can_be_found_by_halving(stub, documents):
    stub.poison = "poison"
    texts = ["a", "b", "the poison", "d"]
    async with embed_with(stub) as action:
        with pytest.raises(DataError) as caught:
            await action.apply(documents(texts))
        assert not caught.value.rows
        await action.apply(documents(texts).slice(0, 2))
        with pytest.raises(DataError) as caught:
            await action.apply(documents(texts).slice(2, 1))
        assert caught.value.rows == {0: "HTTP 400: invalid input"}


async def test_a_vector_of_nan_is_that_rows_error(stub):
    error = await refused(stub, "not_finite")
    assert isinstance(error, DataError)
    assert error.rows == {0: "the vector holds NaN or infinity"}


async def test_another_dimension_than_the_graph_was_checked_with(stub):
    params = EmbedParams(model="text-embedding-3-small")
    async with Embed(params, connection_to(stub)) as action:
        with pytest.raises(ConfigError, match=r"48 dimensions, not 1536 .*set param 'dimensions'"):
            await action.embed_texts(["a"])


async def test_the_key_is_never_told(stub):
    """Not even when the endpoint repeats it, or when the key cannot be sent."""
    for fault in (Refuse(401, {"message": f"bad key {KEY}!"}), Refuse(500, {"message": KEY})):
        error = await refused(stub, fault)
        told = "".join(traceback.format_exception(error))
        assert KEY not in told
        assert "***" in told
    connection = OpenAIConnection(api_key=SecretStr("sk-ключ\n1"), model="stub")
    with pytest.raises(ConfigError) as caught:
        async with Embed(EmbedParams(), connection):
            pass
    assert caught.value.tag == "auth"
    assert "ключ" not in "".join(traceback.format_exception(caught.value))


async def test_a_keys_trailing_newline_is_no_part_of_it(stub):
    connection = OpenAIConnection(api_key=SecretStr(f"{KEY}\n"), base_url=stub.url, model="stub")
    async with Embed(EmbedParams(), connection) as action:
        await action.embed_texts(["a"])
    assert stub.requests[-1][0]["authorization"] == f"Bearer {KEY}"


@pytest.mark.parametrize(
    "url", ["localhost:8000", "ftp://host/v1", "https://u:p@host/v1", "https://host/v1?key=1", ""]
)
def test_base_urls_that_cannot_be_meant(url):
    with pytest.raises(ValidationError, match="base_url") as caught:
        OpenAIConnection(base_url=url)
    assert "u:p" not in str(caught.value)


async def test_cancelling_closes_the_session(stub):
    stub.faults.append("hang")
    action = embed_with(stub)
    with anyio.move_on_after(0.2) as scope:
        async with action:
            await action.embed_texts(["a"])
    assert scope.cancelled_caught
    session = action._embedder.client._session
    assert session.closed
    assert session.connector is None or session.connector.closed


async def test_calls_go_out_together(documents):
    """As many as the engine starts, on as many connections."""
    async with OpenAIStub(dimensions=8, request_seconds=0.8).serve() as stub:
        async with Embed(EmbedParams(model="stub"), connection_to(stub)) as action:
            with anyio.fail_after(60):
                async with anyio.create_task_group() as group:
                    for place in range(120):
                        group.start_soon(action.apply, documents([f"text {place}"]))
        assert stub.counts["most_in_flight"] == 120


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"null",
        b"[]",
        b'{"data": null}',
        b'{"data": [1]}',
        b'{"data": [{"index": 0}]}',
        b'{"data": [{"embedding": [1.0]}]}',
        b'{"data": [{"index": "0", "embedding": [1.0]}]}',
        b'{"data": [{"index": -1, "embedding": [1.0]}]}',
        b'{"data": [{"index": 0, "embedding": null}]}',
        b'{"data": [{"index": 0, "embedding": []}]}',
        b'{"data": [{"index": 0, "embedding": ""}]}',
        b'{"data": [{"index": 0, "embedding": "AAA="}]}',
        b'{"data": [{"index": 0, "embedding": "!!!!"}]}',
        b'{"data": [{"index": 0, "embedding": {"a": 1}}]}',
        b'{"data": [{"index": 0, "embedding": ["x"]}]}',
        b"[" * 100_000,
        b'{"data": [{"index": 1e400, "embedding": [1.0]}]}',
    ],
)
def test_malformed_answers(body):
    with pytest.raises(TransientError, match="malformed") as caught:
        decode_response(body, 1)
    assert caught.value.remedy
    assert "Error" not in str(caught.value)  # Python's wording


def test_numbers_beyond_float32_are_infinite():
    body = b'{"data": [{"index": 0, "embedding": [1e300, 1, null]}]}'
    assert np.isfinite(decode_response(body, 1)).tolist() == [[False, True, False]]
