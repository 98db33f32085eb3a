"""The writer of each format."""

from nvisy_connectors.object.formats.arrow_writer import ArrowWriter
from nvisy_connectors.object.formats.csv_writer import CsvWriter
from nvisy_connectors.object.formats.jsonl_writer import JsonlWriter
from nvisy_connectors.object.formats.parquet_writer import ParquetWriter
from nvisy_connectors.object.formats.part_writer import PartWriter
from nvisy_connectors.object.formats.whole_writers import BinaryWriter, TextWriter

WRITERS: dict[str, type[PartWriter]] = {
    "text": TextWriter,
    "binary": BinaryWriter,
    "jsonl": JsonlWriter,
    "csv": CsvWriter,
    "parquet": ParquetWriter,
    "arrow": ArrowWriter,
}
