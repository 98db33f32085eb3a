"""The reader of each format."""

from nvisy_connectors.object.formats.arrow_ipc import ArrowReader
from nvisy_connectors.object.formats.binary import BinaryReader
from nvisy_connectors.object.formats.csv_reader import CsvReader
from nvisy_connectors.object.formats.jsonl import JsonlReader
from nvisy_connectors.object.formats.parquet import ParquetReader
from nvisy_connectors.object.formats.reader import Reader
from nvisy_connectors.object.formats.text import TextReader

READERS: dict[str, type[Reader]] = {
    "text": TextReader,
    "binary": BinaryReader,
    "jsonl": JsonlReader,
    "csv": CsvReader,
    "parquet": ParquetReader,
    "arrow": ArrowReader,
}
