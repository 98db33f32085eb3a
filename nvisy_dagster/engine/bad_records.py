"""What a source could not make records of, as records that were refused."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import pyarrow as pa
from pydantic_core import to_json

from nvisy_dagster.engine.rejection import Rejected
from nvisy_dagster.sdk import RejectedRecord
from nvisy_dagster.sdk.envelope import SOURCE, with_envelope
from nvisy_dagster.sdk.identity import root_ids_of

LETTER_BYTES = 64 << 20
"""Raw bytes that are put into one Arrow batch: it copies them."""

DATA = pa.field("data", pa.binary())
"""The raw bytes of what could not be read; null when there are too many."""

WHOLE = -1
"""Stands, in an id, for the position of something that was refused as a whole."""


def refused_by_source(found: Sequence[RejectedRecord]) -> Iterator[Rejected]:
    """Bad records with an envelope and the column `data`, by tag and in order.

    Their ids are hashes of where they are, so that a replay finds the same ones.
    """
    for some in _pieces(found):
        enclosed = _enclosed(some)
        by_tag: dict[str, list[int]] = {}
        for place, one in enumerate(some):
            by_tag.setdefault(one.tag, []).append(place)
        for tag, places in by_tag.items():
            records = enclosed if len(by_tag) == 1 else enclosed.take(pa.array(places))
            yield Rejected(records, [some[place].reason for place in places], tag)


def _pieces(records: Sequence[RejectedRecord]) -> Iterator[list[RejectedRecord]]:
    piece: list[RejectedRecord] = []
    size = 0
    for one in records:
        length = len(one.data or b"")
        if piece and size + length > LETTER_BYTES:
            yield piece
            piece, size = [], 0
        piece.append(one)
        size += length
    if piece:
        yield piece


def _enclosed(records: Sequence[RejectedRecord]) -> pa.RecordBatch:
    places = [one.position for one in records]
    positions = np.array([WHOLE if place is None else place for place in places], np.int64)
    # What is bad comes by the object: one hash and one text for each, not for each record.
    objects = [(uri, len(list(same))) for uri, same in groupby(one.uri for one in records)]
    identities, counts = zip(*objects, strict=True)
    of = pa.array(np.repeat(np.arange(len(counts)), counts))
    uris = pa.array(identities, SOURCE.field("uri").type).take(of)
    columns = pa.RecordBatch.from_arrays(
        [pa.array([one.data for one in records], DATA.type)], schema=pa.schema([DATA])
    )
    enclosed = with_envelope(
        columns,
        ids=root_ids_of(identities, np.array(counts), positions),
        uri=uris,
        metadata=pa.array([_text(one) for one in records], pa.string()),
    )
    source = pa.StructArray.from_arrays([uris, pa.array(places, pa.int64())], fields=list(SOURCE))
    place = enclosed.schema.get_field_index("_source")
    return enclosed.set_column(place, enclosed.schema.field(place), source)


def _text(record: RejectedRecord) -> str | None:
    return to_json(record.metadata).decode() if record.metadata else None
