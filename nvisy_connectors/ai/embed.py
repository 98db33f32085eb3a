"""The `embed` action: a vector for each text, by a local model or an OpenAI-compatible API."""

from collections.abc import Iterable, Sequence
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute
from pydantic import Field

from nvisy_connectors.ai.embed_models import Embedder, ModelChoice, Provider, choose_model
from nvisy_connectors.ai.openai_connection import OpenAIConnection
from nvisy_connectors.ai.texts import (
    TEXTUAL,
    byte_lengths,
    carried,
    check_text_column,
    text_column,
    units,
)
from nvisy_connectors.ai.vectors import Vectors, faults, normalized, vector_array
from nvisy_dagster.sdk import Action, Capabilities, ConfigError, DataError, EdgeType, Params
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE, derive, payload_schema

# Arrow makes its kernels at import; no type checker sees them.
pc = cast("Any", pyarrow.compute)

BATCH_ROWS = {"local": 256, "openai": 1024}
"""Texts of one call, unless params say otherwise."""

MAX_BATCH_ROWS = 2048
"""Texts that OpenAI takes in one request."""

_BYTES_PER_TOKEN = 3
"""Low on purpose: English has 4 to 5, Chinese 3; a batch should not exceed what an API takes."""

_NAMES = frozenset(payload_schema(schema_of("embedding", 1)).names)


class EmbedParams(Params):
    """Which model, and how much of it at once."""

    planned = {"provider": ("anthropic", "gemini")}  # noqa: RUF012 - pydantic knows it

    provider: Provider | None = None
    """`local` runs a model in this process; `openai` asks the API of the connection. Left out, it
    is `openai` when the node has a connection, else `local`."""
    model: str | None = Field(default=None, min_length=1)
    """Name of the model. `local` defaults to `wordllama-l2-supercat-256`; `openai` to the
    connection's model."""
    dimensions: int | None = Field(default=None, ge=1)
    """Size of the vectors, for models that make several. Local: 256, 128 or 64. An API is asked for
    it unless it is the model's own; naming it lets sinks be checked before the run."""
    batch_rows: int | None = Field(default=None, ge=1, le=MAX_BATCH_ROWS)
    """Most texts in one call: 256 for `local`, 1024 for `openai` when left out."""
    batch_tokens: int = Field(default=200_000, ge=1)
    """Most tokens in one call, by the column `tokens` where there is one, else estimated. OpenAI
    takes 300,000."""
    column: str = "text"
    """Column that holds the text."""
    normalize: bool = True
    """Scale every vector to length 1, as cosine similarity wants it."""


class Embed(Action[EmbedParams]):
    """Embed texts: a vector for each, by a local model or any OpenAI-compatible API.

    The local model `wordllama-l2-supercat-256` needs no key, no network and no GPU, and embeds
    thousands of texts a second on one core. It averages token vectors: good for search by words and
    topics, blind to word order. It is WordLlama (MIT licence), trained from the token codebooks of
    Llama 2.

    An API gets one request per batch and is asked for base64. Rate limits (`Retry-After` honoured),
    timeouts, resets and answers that are cut short or malformed are retried; a refused key, model
    or quota stops the run; a refused text is that record's error. When a batch is refused as a
    whole, the error names no rows, since the API does not tell which texts are to blame.

    The other columns (title, index, start, your own) are carried along, except those named like a
    column that `embed` makes. `tokens` is what the local model counted, else what came in.
    """

    name = "embed"
    accepts = TEXTUAL
    connection_type = OpenAIConnection
    connection_required = False
    capabilities = Capabilities(concurrency=4, row_wise=True, expensive=True)
    requires = ("aiohttp", "safetensors", "tokenizers", "wordllama")
    extra = "ai"

    _embedder: Embedder
    _dimensions: int | None = None

    async def open(self) -> None:
        """Load the local model, or make the HTTP session.

        Raises:
            ConfigError: The model is not installed, or its connection or name is missing.
        """
        choice = self._choice()
        self._dimensions = choice.dimensions
        self._embedder = await choice.open(self._openai(), self.stack)

    def output(self, incoming: EdgeType) -> EdgeType:
        """Embeddings, with the columns of their texts; the schema where the dimension is known.

        Raises:
            ConfigError: The column of text is missing, or the params contradict each other.
        """
        choice = self._choice()
        check_text_column(incoming, self.params.column)
        if incoming.schema is None or choice.dimensions is None:
            return EdgeType("embedding")
        payload = self._payload_schema(incoming.schema, choice.dimensions)
        return EdgeType("embedding", pa.schema([*ENVELOPE, *payload]))

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Cut a batch into requests of `batch_rows` texts and `batch_tokens` tokens."""
        tokens = _token_estimates(batch, self.params.column)
        budget = self.params.batch_tokens
        return units(batch, tokens, budget=budget, max_rows=self.rows_per_call())

    def rows_per_call(self) -> int:
        """Texts of one request."""
        return self.params.batch_rows or BATCH_ROWS[self._choice().provider]

    def cost(self, batch: pa.RecordBatch) -> int:
        """Tokens of one request: counted where they are known, else estimated, rather too high."""
        return int(_token_estimates(batch, self.params.column).sum())

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Embed the texts of one request.

        Raises:
            ConfigError: The API refuses key, quota, model or params.
            DataError: Rows without text, refused by the API, or whose vector is of no use; without
                rows when the API refused the batch as a whole.
            TransientError: The API does not answer, or says to come back later.
        """
        texts = text_column(batch, self.params.column, allow_empty=False)
        vectors, counts = await self._embed(texts.to_pylist())
        schema = self._payload_schema(batch.schema, vectors.shape[1])
        made = {
            "text": texts.cast(pa.string()),
            "vector": vector_array(vectors, schema.field("vector").type),
            "model": pa.repeat(self._choice().name, batch.num_rows),
            "tokens": _tokens_of(batch) if counts is None else pa.array(counts),
        }
        columns = pa.RecordBatch.from_arrays(
            [made[f.name] if f.name in _NAMES else batch.column(f.name) for f in schema],
            schema=schema,
        )
        rows = np.arange(batch.num_rows, dtype=np.int64)
        return derive(batch, rows, columns, node_id=self.node_id)

    async def embed_texts(self, texts: Sequence[str]) -> Vectors:
        """Vectors of some texts, such as a question, outside of any run; `(n, d)`.

        Raises:
            ConfigError: The API refuses key, quota, model or params.
            DataError: A text is empty or refused, or its vector of no use.
            TransientError: The API does not answer, or says to come back later.
        """
        empty = {row: "the text is empty" for row, text in enumerate(texts) if not text}
        if empty:
            raise DataError("an empty text has no vector", rows=empty)
        size = self.params.batch_rows or BATCH_ROWS[self._choice().provider]
        parts = [np.empty((0, self._dimensions or 0), np.float32)]
        for start in range(0, len(texts), size):
            vectors, _ = await self._embed(list(texts[start : start + size]))
            parts.append(vectors)
        return np.concatenate(parts[1:] or parts)

    async def _embed(self, texts: list[str]) -> tuple[Vectors, npt.NDArray[np.int32] | None]:
        if not texts:
            return np.empty((0, self._dimensions or 1), np.float32), None
        vectors, counts = await self._embedder.embed(texts)
        self._expect_dimensions(vectors.shape[1])
        rows = faults(vectors, normalize=self.params.normalize)
        if rows:
            raise DataError(f"{len(rows)} vectors are of no use", rows=rows, tag="vector")
        return normalized(vectors) if self.params.normalize else vectors, counts

    def _expect_dimensions(self, found: int) -> None:
        self._dimensions = self._dimensions or found
        if found != self._dimensions:
            raise ConfigError(
                f"model {self._choice().name!r} gives vectors of {found} dimensions, "
                f"not {self._dimensions}",
                remedy=f"set param 'dimensions' to {found}, or check the connection's base_url",
                tag="schema",
            )

    def _payload_schema(self, incoming: pa.Schema, dimensions: int) -> pa.Schema:
        made = payload_schema(schema_of("embedding", dimensions))
        return pa.schema([*made, *carried(incoming, self.params.column, _NAMES)])

    def _openai(self) -> OpenAIConnection | None:
        return cast("OpenAIConnection | None", self.connection)

    def _choice(self) -> ModelChoice:
        params = self.params
        return choose_model(params.provider, params.model, params.dimensions, self._openai())


def _token_estimates(batch: pa.RecordBatch, column: str) -> npt.NDArray[np.int64]:
    estimates = -(-byte_lengths(batch, column) // _BYTES_PER_TOKEN)
    known = _tokens_of(batch)
    return pc.coalesce(known.cast(pa.int64()), pa.array(estimates)).to_numpy(zero_copy_only=False)


def _tokens_of(batch: pa.RecordBatch) -> pa.Array:
    """The column `tokens`, as far as it counts something; null elsewhere."""
    index = batch.schema.get_field_index("tokens")
    if index < 0 or not pa.types.is_integer(batch.schema.field(index).type):
        return pa.nulls(batch.num_rows, pa.int32())
    counts = batch.column(index).cast(pa.int32(), safe=False)
    usable = pc.greater_equal(counts, 0)
    return pc.if_else(usable, counts, pa.scalar(None, pa.int32()))
