"""The envelope of records that come from objects."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from nvisy_connectors.object.folder import Folder, ObjectInfo
from nvisy_dagster.sdk.envelope import ENVELOPE, ENVELOPE_NAMES, SOURCE, with_envelope
from nvisy_dagster.sdk.errors import ConfigError
from nvisy_dagster.sdk.identity import root_ids, root_ids_of


@dataclass(frozen=True)
class Origin:
    """Neighbouring records of one object."""

    info: ObjectInfo
    positions: npt.NDArray[np.int64]
    """Place of each record in the object."""


def enclose(columns: pa.RecordBatch, origins: list[Origin], folder: Folder) -> pa.RecordBatch:
    """Put the envelope before the payload of records that come from some objects, in order."""
    uris = [folder.uri(origin.info.key) for origin in origins]
    if len(origins) == 1:
        positions = origins[0].positions
        return with_envelope(
            columns,
            ids=root_ids(uris[0], positions),
            uri=uris[0],
            positions=positions,
            created_at=origins[0].info.modified,
        )
    counts = np.array([len(origin.positions) for origin in origins], np.int64)
    nothing = np.zeros(0, np.int64)
    positions = np.concatenate([nothing, *(origin.positions for origin in origins)])
    owners = pa.array(np.repeat(np.arange(len(origins)), counts))
    times = [origin.info.modified for origin in origins]
    return with_envelope(
        columns,
        ids=root_ids_of(uris, counts, positions),
        uri=pa.array(uris, SOURCE.field("uri").type).take(owners),
        positions=positions,
        created_at=pa.array(times, ENVELOPE.field("_created_at").type).take(owners),
    )


def check_names(schema: pa.Schema, where: str) -> pa.Schema:
    """Refuse columns whose names are taken by the envelope, and names that occur twice.

    Raises:
        ConfigError: There is such a column.
    """
    for name in schema.names:
        if name in ENVELOPE_NAMES:
            raise ConfigError(
                f"column {name!r} of {where} has a name that is reserved for the record's envelope",
                remedy="list in `columns` the columns to read, without this one",
                tag="schema",
            )
    if len(set(schema.names)) != len(schema.names):
        raise ConfigError(f"two columns of {where} have the same name", tag="schema")
    return schema
