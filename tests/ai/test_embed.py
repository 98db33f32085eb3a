"""Embedding with the local model, and what holds for every model."""

import logging
import subprocess
import sys
import textwrap

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from nvisy_connectors.ai.embed import Embed, EmbedParams, OpenAIConnection
from nvisy_connectors.ai.local_model import WORDLLAMA_MODEL, load_local_model
from nvisy_connectors.ai.vectors import normalized
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE, payload
from nvisy_dagster.sdk.testing import ActionConformance

pytestmark = pytest.mark.anyio

TEXTS = [
    "How do I reset my password?",
    "I cannot log in: which password did I choose?",
    "Bake the bread for forty minutes at 220 degrees.",
    "Flour, water, salt and yeast make a dough.",
    "🎉 e\u0301 漢字",
    " ",
]
REMOTE = OpenAIConnection(model="text-embedding-3-large")
UNRESOLVED = OpenAIConnection.model_construct()
"""What a node that names a connection is compiled with."""


class TestEmbedLocally(ActionConformance):
    component = Embed
    primitive = "document"

    @pytest.fixture
    def params(self):
        return EmbedParams(dimensions=64)

    @pytest.fixture
    def rows(self, documents):
        return documents(TEXTS, title=pa.array([*"abcde", None]))

    def refused(self, rows):
        return [EdgeType("document", rows.drop_columns(["text"]).schema)]


async def embed(texts, **params):
    async with Embed(EmbedParams(**params)) as action:
        return await action.embed_texts(texts)


async def test_related_texts_are_closer():
    vectors = await embed(TEXTS[:4])
    likeness = vectors @ vectors.T
    within = min(likeness[0, 1], likeness[2, 3])
    across = likeness[:2, 2:].max()
    assert within > across + 0.1


async def test_a_question_finds_its_text():
    texts = ["Cats purr when they are content.", "Interest rates rose again.", *TEXTS]
    vectors = await embed(texts)
    question = await embed(["What ingredients are in bread dough?"])
    assert texts[int(np.argmax(vectors @ question[0]))] == TEXTS[3]


async def test_vectors_are_those_of_the_library(caplog):
    """Bounded memory must not change what the model says."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    import wordllama

    # Importing it configures the root logger, which is why the connector reads its files instead.
    root.handlers[:] = handlers
    folder = wordllama.__path__[0]
    model = wordllama.WordLlama.load(cache_dir=folder, disable_download=True)
    texts = [*TEXTS, "word " * 3000]
    wanted = model.embed(texts, norm=True)
    np.testing.assert_allclose(await embed(texts), wanted, atol=2e-6)


def test_the_library_is_never_imported():
    code = """
        import sys, anyio, logging
        from nvisy_connectors.ai.embed import Embed, EmbedParams
        async def main():
            async with Embed(EmbedParams()) as action:
                assert (await action.embed_texts(["a"])).shape == (1, 256)
        assert "aiohttp" not in sys.modules and "tokenizers" not in sys.modules
        anyio.run(main)
        assert "wordllama" not in sys.modules and "aiohttp" not in sys.modules
        assert not logging.getLogger().handlers
    """
    subprocess.run([sys.executable, "-c", textwrap.dedent(code)], check=True, timeout=180)


def test_memory_does_not_grow_with_a_text():
    """A megabyte of text has 400,000 tokens, whose vectors would take 400 MB."""
    import resource

    model = load_local_model(WORDLLAMA_MODEL)
    model.embed(["warm up"], 256)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    _, counts = model.embed(["abc def " * 60_000], 256)
    assert counts[0] > 100_000
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100 * 1024


async def test_columns(documents):
    batch = documents(
        ["ignored"] * 2,
        body=pa.array(["first text", "second"], pa.large_string()),
        index=pa.array([4, 5], pa.int32()),
        model=pa.array(["clash"] * 2),
    )
    params = EmbedParams(column="body")
    async with Embed(params, node_id="embed") as action:
        found = payload(await action.apply(batch))
    assert found.schema.names == ["text", "vector", "model", "tokens", "index"]
    assert found.column("text").to_pylist() == ["first text", "second"]
    assert found.column("model").to_pylist() == [WORDLLAMA_MODEL] * 2
    assert found.column("tokens").to_pylist() == [2, 1]
    assert found.column("index").to_pylist() == [4, 5]
    vectors = found.column("vector").flatten().to_numpy().reshape(2, 256)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(vectors, await embed(["first text", "second"]))


async def test_unnormalized_vectors_keep_their_length():
    vectors = await embed(TEXTS[:4], normalize=False)
    assert (np.abs(np.linalg.norm(vectors, axis=1) - 1) > 0.01).all()
    np.testing.assert_allclose(normalized(vectors), await embed(TEXTS[:4]), atol=1e-6)


def test_normalizing_leaves_unit_vectors_bit_for_bit():
    unit = np.random.default_rng(1).standard_normal((50, 384)).astype(np.float32)
    unit /= np.linalg.norm(unit, axis=1, keepdims=True)
    assert normalized(unit) is unit
    mixed = np.vstack([unit, 3 * unit[:1], 0 * unit[:1]])
    scaled = normalized(mixed)
    np.testing.assert_array_equal(scaled[:50], unit)
    np.testing.assert_allclose(scaled[50], unit[0], atol=1e-6)
    assert not scaled[51].any()


async def test_rows_without_text(documents):
    async with Embed(EmbedParams()) as action:
        with pytest.raises(DataError) as caught:
            await action.apply(documents(["a", "", None]))
        assert caught.value.rows == {1: "column 'text' is empty", 2: "column 'text' is null"}
        with pytest.raises(DataError) as caught:
            await action.embed_texts(["a", ""])
        assert caught.value.rows == {1: "the text is empty"}
        assert (await action.embed_texts([])).shape == (0, 256)


def compiled(params, connection=None, schema=None):
    schema = schema or schema_of("chunk")
    return Embed(EmbedParams(**params), connection).output(EdgeType("chunk", schema)).schema


@pytest.mark.parametrize(
    ("params", "connection", "dimensions"),
    [
        ({}, None, 256),
        ({"provider": "local", "dimensions": 64}, None, 64),
        ({"model": "text-embedding-3-small"}, UNRESOLVED, 1536),
        ({"model": "text-embedding-3-small", "dimensions": 256}, UNRESOLVED, 256),
        ({}, REMOTE, 3072),
        ({"model": WORDLLAMA_MODEL}, REMOTE, None),
        ({"model": "nomic-embed-text"}, UNRESOLVED, None),
        ({"model": "nomic-embed-text", "dimensions": 768}, UNRESOLVED, 768),
        ({"provider": "openai"}, UNRESOLVED, None),
        ({"dimensions": 384}, UNRESOLVED, 384),
        ({}, UNRESOLVED, None),
    ],
)
def test_schema_is_known_when_the_dimension_is(params, connection, dimensions):
    schema = compiled(params, connection)
    if dimensions is None:
        assert schema is None
        return
    made = ["text", "vector", "model", "tokens"]
    assert schema.names == [*ENVELOPE.names, *made, "index", "start", "end"]
    vector = schema.field("vector")
    assert vector.type.list_size == dimensions
    assert not vector.nullable


@pytest.mark.parametrize(
    ("params", "connection", "reason"),
    [
        ({"provider": "local"}, REMOTE, "'local' takes no connection"),
        ({"provider": "local", "model": "wordlama"}, None, f"use '{WORDLLAMA_MODEL}'"),
        ({"dimensions": 100}, None, "'dimensions' is 100; .* of 256, 128, 64"),
        ({}, OpenAIConnection(timeout_seconds=1), "'model' is missing"),
        ({"model": "text-embedding-3-small", "dimensions": 1537}, UNRESOLVED, "at most 1536"),
        ({"model": "text-embedding-ada-002", "dimensions": 256}, UNRESOLVED, "of 1536"),
        ({"provider": "local"}, UNRESOLVED, "'local' takes no connection"),
        ({"model": "text-embedding-3-small"}, None, r"needs a connection .*local model"),
        ({"provider": "openai"}, None, "provider 'openai' needs a connection"),
        ({"column": "txt"}, None, "column 'txt' .*did you mean 'text'"),
        ({"column": "start"}, None, "column 'start' holds int64"),
    ],
)
def test_contradictions_are_told_before_the_run(params, connection, reason):
    with pytest.raises(ConfigError, match=reason):
        compiled(params, connection)


async def test_a_connection_that_tells_no_model_is_refused_when_it_opens():
    with pytest.raises(ConfigError, match="'model' is missing"):
        async with Embed(EmbedParams(), OpenAIConnection()):
            pass


@pytest.mark.parametrize("provider", ["gemini", "anthropic"])
def test_providers_that_are_not_built_yet(provider):
    with pytest.raises(ValidationError) as caught:
        EmbedParams.model_validate({"provider": provider, "temperature": 1})
    (found,) = caught.value.errors()
    assert found["msg"] == f'provider "{provider}" is not built yet'
    assert found["ctx"]["at"] == ("provider",)
    assert found["ctx"]["remedy"] == 'use "local" or "openai"'


async def test_a_model_that_needs_a_connection():
    with pytest.raises(ConfigError, match=r"needs a connection of type 'openai' .*local model"):
        await embed(["a"], model="text-embedding-3-small")


@pytest.mark.parametrize("params", [{"batch_rows": 2049}, {"batch_tokens": 0}, {"model": ""}])
def test_params_out_of_range(params):
    with pytest.raises(ValidationError):
        EmbedParams(**params)


def test_split_by_rows_and_by_tokens(documents):
    def sizes(batch, **params):
        connection = UNRESOLVED if "model" in params else None
        return [unit.num_rows for unit in Embed(EmbedParams(**params), connection).split(batch)]

    short = documents(["a"] * 600)
    assert sizes(short) == [256, 256, 88]
    assert sizes(short, model="text-embedding-3-small") == [600]
    assert sizes(documents([]), batch_rows=5) == []
    # 30 bytes are estimated at 10 tokens; one text over the budget goes alone.
    assert sizes(documents(["x" * 30] * 5 + ["x" * 300]), batch_tokens=20) == [2, 2, 1, 1]
    counted = documents(["x" * 30] * 4, tokens=pa.array([20, None, 10, 3], pa.int32()))
    assert sizes(counted, batch_tokens=20) == [1, 2, 1]
    assert sizes(documents(["x", None]).drop_columns(["text"])) == [2]
