"""What records of every primitive have in common."""

import uuid
from typing import Any, ClassVar

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, JsonValue, field_validator

from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES
from nvisy_dagster.sdk.identity import ulids
from nvisy_dagster.sdk.primitives.types import Int64, UtcDatetime


class RecordModel(BaseModel):
    """Frozen, closed, finite; bytes are base64 in JSON."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        use_attribute_docstrings=True,
        allow_inf_nan=False,
        hide_input_in_errors=True,
        ser_json_bytes="base64",
        val_json_bytes="base64",
    )


class SourcePosition(RecordModel):
    """Where a root record came from."""

    uri: str
    """URI of the object, table or endpoint, without credentials."""
    position: Int64 | None = None
    """Place in there: byte offset, row or page number."""


def _fresh_id() -> uuid.UUID:
    return uuid.UUID(bytes=np.asarray(ulids(1)).tobytes())


def _own_id(data: dict[str, Any]) -> uuid.UUID:
    return data["id"]


class Record(RecordModel):
    """The envelope: what every record carries beside its payload.

    In Arrow and in JSON these fields are the columns `_id`, `_parent_ids`, `_root_id`, `_source`,
    `_created_at`, `_tags` and `_metadata`; the payload's fields are columns under their own names.
    """

    primitive: ClassVar[str]
    """Name of the primitive, as edges carry it."""

    id: uuid.UUID = Field(default_factory=_fresh_id)
    """Unique and, where the source has an identity, deterministic; a new ULID when not given."""
    parent_ids: list[uuid.UUID] = Field(default_factory=list[uuid.UUID])
    """Ids of the records that this one was made from; none for a record of a source."""
    root_id: uuid.UUID = Field(default_factory=_own_id)
    """Id of the source record at the beginning of the line; its own id when it is that record."""
    source: SourcePosition | None = None
    """Where the root record came from."""
    created_at: UtcDatetime | None = None
    """When the data came into being, for instance the last change of its object."""
    tags: list[str] = Field(default_factory=list[str])
    """Labels."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict[str, JsonValue])
    """Whatever else is known about the record; stored as JSON text."""
    columns: dict[str, Any] = Field(default_factory=dict[str, Any])
    """Payload columns beyond those of the primitive, by name."""

    @field_validator("columns")
    @classmethod
    def _only_further_columns(cls, columns: dict[str, Any]) -> dict[str, Any]:
        taken = ENVELOPE_NAMES | (cls.model_fields.keys() - Record.model_fields.keys())
        for name in columns:
            if name in taken:
                raise ValueError(f"{name!r} is a column of every {cls.primitive} record")
        return columns
