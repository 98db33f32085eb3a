"""The `chunk` action: long texts become pieces that a model can take."""

from collections.abc import Iterable
from typing import Literal, Self

import numpy as np
import pyarrow as pa
from anyio import to_thread
from pydantic import Field, model_validator

from nvisy_connectors.ai.spans import Spans, cut
from nvisy_connectors.ai.splitters import Splitter, splitter
from nvisy_connectors.ai.texts import (
    TEXTUAL,
    byte_lengths,
    carried,
    check_text_column,
    text_column,
    units,
)
from nvisy_connectors.ai.tokenizer import WORDLLAMA
from nvisy_dagster.sdk import Capabilities, EdgeType, KernelAction, Params
from nvisy_dagster.sdk.arrow_schema import schema_of
from nvisy_dagster.sdk.envelope import ENVELOPE, derive, payload_schema

UNIT_BYTES = 8 << 20
"""Text that one call may make, so that a large overlap cannot fill the memory."""

_MADE = tuple(payload_schema(schema_of("chunk")))
_NAMES = frozenset(field.name for field in _MADE)

STRUCTURE = frozenset({"pages", "headings", "tables"})
"""Columns of a document's structure: its chunks would each hold all of it."""


class ChunkParams(Params):
    """Where texts are cut."""

    planned = {"strategy": ("section", "page", "similarity")}  # noqa: RUF012 - pydantic knows it

    strategy: Literal["fixed"] = "fixed"
    """How texts are cut: `fixed` into pieces of a size."""
    size: int = Field(default=512, ge=1)
    """Largest chunk, in `unit`."""
    overlap: int = Field(default=64, ge=0)
    """What neighbouring chunks share, in `unit`: exactly this with `exact` boundaries, at most this
    with `natural` ones. Less than `size`."""
    unit: Literal["characters", "tokens"] = "characters"
    """What `size` and `overlap` count."""
    boundary: Literal["natural", "exact"] = "natural"
    """`natural`: break where paragraphs, sentences or words end, and trim white space around a
    chunk. `exact`: windows of exactly `size`; joined without their overlaps they give the text back
    character for character."""
    tokenizer: str = WORDLLAMA
    """What counts tokens: `wordllama` (its Llama 2 vocabulary, shipped with the package), or the
    path of a `tokenizer.json`. Never downloaded."""
    column: str = "text"
    """Column that holds the text."""

    @model_validator(mode="after")
    def _progress(self) -> Self:
        if self.overlap >= self.size:
            raise ValueError(
                f"overlap ({self.overlap}) must be less than size ({self.size}); "
                "set a smaller overlap"
            )
        return self


class Chunk(KernelAction[ChunkParams]):
    """Cut texts into chunks of a size, with overlap.

    Each chunk knows its `index` in its document, from 0, and where it stands: `start` and `end` are
    positions of characters in the text that was cut. `tokens` is filled when the unit is tokens.
    With `natural` boundaries the tokens of a chunk are counted in the chunk alone, with `exact`
    ones in the whole document. Either way a character that is several tokens, as an emoji may be,
    stays whole and may exceed the size by its tokens: leave a model's limit a margin of four.

    A document that is empty or all white space gives no chunk and counts as dropped. The other
    columns of a document (title, language, your own) are carried along to its chunks, except those
    named like a column that `chunk` makes, and the lists of pages, headings and tables that `parse`
    makes: each chunk would hold all of them.
    """

    name = "chunk"
    accepts = TEXTUAL
    capabilities = Capabilities(row_wise=True)
    requires = ("semantic_text_splitter", "tokenizers")
    extra = "ai"

    _splitter: Splitter

    async def open(self) -> None:
        """Load the splitter and, where tokens are counted, the tokenizer."""
        self._splitter = await to_thread.run_sync(self._make_splitter)

    def output(self, incoming: EdgeType) -> EdgeType:
        """Chunks, with the columns of their documents.

        Raises:
            ConfigError: The column of text is missing.
        """
        check_text_column(incoming, self.params.column)
        if incoming.schema is None:
            return EdgeType("chunk")
        extra = _carried(incoming.schema, self.params.column)
        return EdgeType("chunk", pa.schema([*ENVELOPE, *_MADE, *extra]))

    def split(self, batch: pa.RecordBatch) -> Iterable[pa.RecordBatch]:
        """Cut a batch so that one call makes no more than `UNIT_BYTES` of text."""
        if batch.num_rows == 0:
            return [batch]
        growth = self.params.size / (self.params.size - self.params.overlap)
        weights = (byte_lengths(batch, self.params.column) * growth).astype(np.int64)
        return units(batch, weights, budget=UNIT_BYTES, max_rows=batch.num_rows)

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        """Cut every text of the batch.

        Raises:
            ConfigError: The column of text is missing.
            DataError: Rows whose text is null.
        """
        texts = text_column(batch, self.params.column, allow_empty=True)
        spans = self._splitter(texts)
        indexes = spans.indexes()
        extra = _carried(batch.schema, self.params.column)
        parents = batch.select([field.name for field in extra]).take(pa.array(spans.rows))
        columns = pa.RecordBatch.from_arrays(
            [*_columns(texts, spans, indexes.astype(np.int32)), *parents.columns],
            schema=pa.schema([*_MADE, *extra]),
        )
        return derive(batch, spans.rows, columns, node_id=self.node_id, indexes=indexes)

    def _make_splitter(self) -> Splitter:
        params = self.params
        tokenizer = params.tokenizer if params.unit == "tokens" else None
        return splitter(params.boundary, params.size, params.overlap, tokenizer)


def _carried(schema: pa.Schema, column: str) -> list[pa.Field]:
    return [f for f in carried(schema, column, _NAMES) if not _is_structure(f)]


def _is_structure(field: pa.Field) -> bool:
    nested = pa.types.is_list(field.type) and pa.types.is_struct(field.type.value_type)
    return nested and field.name in STRUCTURE


def _columns(texts: pa.Array, spans: Spans, indexes: np.ndarray) -> list[pa.Array]:
    count = len(spans.rows)
    tokens = pa.nulls(count, pa.int32()) if spans.tokens is None else pa.array(spans.tokens)
    positions = [pa.array(spans.starts), pa.array(spans.ends)]
    return [cut(texts, spans), pa.array(indexes), *positions, tokens]
