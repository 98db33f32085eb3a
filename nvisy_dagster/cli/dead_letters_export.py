"""Writing dead letters to a file."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from nvisy_dagster.cli.dead_letters_view import whole_letters
from nvisy_dagster.engine.dead_letter import REASON
from nvisy_dagster.engine.dead_letter_box import DeadLetterBox
from nvisy_dagster.sdk import ConfigError


def export(box: DeadLetterBox, letters: pa.Table, file: Path) -> int:
    """Write whole letters; the file is there when all of them are in it.

    Returns:
        How many there are.

    Raises:
        ConfigError: The file has no known ending, or cannot be written.
    """
    write = {".jsonl": _write_jsonl, ".parquet": _write_parquet}.get(file.suffix)
    if write is None:
        raise ConfigError(
            f"dead letters are written to .jsonl or .parquet files, not to {file.name!r}",
            remedy="give the file one of these endings",
        )
    temporary = file.with_name(f".{file.name}.tmp")
    try:
        write(box, letters, temporary)
        temporary.replace(file)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise ConfigError(f"{file} cannot be written: {error.strerror or error}") from error
    return letters.num_rows


def _write_jsonl(box: DeadLetterBox, letters: pa.Table, file: Path) -> None:
    with file.open("w", encoding="utf-8") as stream:
        for letter in whole_letters(box, letters):
            stream.write(json.dumps(letter, ensure_ascii=False) + "\n")


def _write_parquet(box: DeadLetterBox, letters: pa.Table, file: Path) -> None:
    """One schema for all: the columns of all records, or their JSON where types clash."""
    types: dict[pa.DataType, None] = {}
    for _, batch in box.read(letters):
        types[batch.schema.field("record").type] = None
    kind = _common(list(types))
    schema = REASON.append(pa.field("record", kind))
    with pq.ParquetWriter(file, schema) as writer:
        for _, batch in box.read(letters):
            record = batch.column("record")
            if pa.types.is_string(kind):
                texts = [json.dumps(plain_record(one)) for one in record.to_pylist()]
                record = pa.array(texts, pa.string())
            else:
                record = _widened(record, kind)
            reason = batch.select(REASON.names).columns
            writer.write_batch(pa.RecordBatch.from_arrays([*reason, record], schema=schema))


def plain_record(record: dict[str, object]) -> object:
    """A record as JSON."""
    from nvisy_dagster.cli.dead_letters_values import plain

    return plain(record)


def _common(types: list[pa.DataType]) -> pa.DataType:
    if not types:
        return pa.string()
    try:
        merged = pa.unify_schemas([pa.schema(list(one)) for one in types])
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.string()
    return pa.struct([pa.field(field.name, field.type) for field in merged])


def _widened(record: pa.StructArray, kind: pa.StructType) -> pa.StructArray:
    batch = pa.RecordBatch.from_struct_array(record)
    columns = [
        batch.column(field.name).cast(field.type)
        if field.name in batch.schema.names
        else pa.nulls(batch.num_rows, field.type)
        for field in kind
    ]
    return pa.StructArray.from_arrays(columns, fields=list(kind))
