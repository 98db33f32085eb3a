"""Everything that an author of a connector or an action may import.

The SDK imports neither Dagster nor any heavy client; `nvisy_dagster.sdk.testing` holds the
conformance suites and is for tests alone.
"""

from nvisy_dagster.sdk.action import Action as Action
from nvisy_dagster.sdk.action import KernelAction as KernelAction
from nvisy_dagster.sdk.action import Router as Router
from nvisy_dagster.sdk.arrow_schema import model_schema as model_schema
from nvisy_dagster.sdk.arrow_schema import schema_of as schema_of
from nvisy_dagster.sdk.capabilities import Capabilities as Capabilities
from nvisy_dagster.sdk.changes import Bookmark as Bookmark
from nvisy_dagster.sdk.changes import Change as Change
from nvisy_dagster.sdk.changes import ChangeCounts as ChangeCounts
from nvisy_dagster.sdk.component import Component as Component
from nvisy_dagster.sdk.component import connection_of as connection_of
from nvisy_dagster.sdk.content_hash import content_hashes as content_hashes
from nvisy_dagster.sdk.edge_type import PRIMITIVES as PRIMITIVES
from nvisy_dagster.sdk.edge_type import EdgeType as EdgeType
from nvisy_dagster.sdk.errors import ConfigError as ConfigError
from nvisy_dagster.sdk.errors import ConfigErrors as ConfigErrors
from nvisy_dagster.sdk.errors import DataError as DataError
from nvisy_dagster.sdk.errors import EpochLostError as EpochLostError
from nvisy_dagster.sdk.errors import NvisyError as NvisyError
from nvisy_dagster.sdk.errors import TransientError as TransientError
from nvisy_dagster.sdk.errors import raise_mistakes as raise_mistakes
from nvisy_dagster.sdk.params import Connection as Connection
from nvisy_dagster.sdk.params import Cursor as Cursor
from nvisy_dagster.sdk.params import Identifier as Identifier
from nvisy_dagster.sdk.params import LocalPath as LocalPath
from nvisy_dagster.sdk.params import Params as Params
from nvisy_dagster.sdk.primitives import PRIMITIVE_MODELS as PRIMITIVE_MODELS
from nvisy_dagster.sdk.primitives import Audio as Audio
from nvisy_dagster.sdk.primitives import Blob as Blob
from nvisy_dagster.sdk.primitives import Chunk as Chunk
from nvisy_dagster.sdk.primitives import Completion as Completion
from nvisy_dagster.sdk.primitives import Document as Document
from nvisy_dagster.sdk.primitives import Embedding as Embedding
from nvisy_dagster.sdk.primitives import FineTuneSample as FineTuneSample
from nvisy_dagster.sdk.primitives import Image as Image
from nvisy_dagster.sdk.primitives import Message as Message
from nvisy_dagster.sdk.primitives import Raw as Raw
from nvisy_dagster.sdk.primitives import Record as Record
from nvisy_dagster.sdk.primitives import Row as Row
from nvisy_dagster.sdk.primitives import SourcePosition as SourcePosition
from nvisy_dagster.sdk.primitives import StructuredOutput as StructuredOutput
from nvisy_dagster.sdk.primitives import ToolCallTrace as ToolCallTrace
from nvisy_dagster.sdk.records import batch_to_records as batch_to_records
from nvisy_dagster.sdk.records import record_to_row as record_to_row
from nvisy_dagster.sdk.records import records_to_batch as records_to_batch
from nvisy_dagster.sdk.records import row_to_record as row_to_record
from nvisy_dagster.sdk.rejected import Decoded as Decoded
from nvisy_dagster.sdk.rejected import RejectedRecord as RejectedRecord
from nvisy_dagster.sdk.serialization import from_ipc as from_ipc
from nvisy_dagster.sdk.serialization import from_json as from_json
from nvisy_dagster.sdk.serialization import to_ipc as to_ipc
from nvisy_dagster.sdk.serialization import to_json as to_json
from nvisy_dagster.sdk.sink import Progress as Progress
from nvisy_dagster.sdk.sink import Sink as Sink
from nvisy_dagster.sdk.source import Batch as Batch
from nvisy_dagster.sdk.source import Source as Source
from nvisy_dagster.sdk.validation import validate as validate
