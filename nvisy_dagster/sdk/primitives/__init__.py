"""The twelve primitives as pydantic models: the public types of the records on an edge.

A primitive is a model and, derived from it, an Arrow schema (`sdk.arrow_schema`) with vectorised
validation (`sdk.validation`). On an edge records are columns of a batch; the models are for
authors, tests and the reference pages.
"""

from nvisy_dagster.sdk.primitives.base import Record as Record
from nvisy_dagster.sdk.primitives.base import SourcePosition as SourcePosition
from nvisy_dagster.sdk.primitives.data import Blob as Blob
from nvisy_dagster.sdk.primitives.data import Raw as Raw
from nvisy_dagster.sdk.primitives.data import Row as Row
from nvisy_dagster.sdk.primitives.media import Audio as Audio
from nvisy_dagster.sdk.primitives.media import Image as Image
from nvisy_dagster.sdk.primitives.model_output import Completion as Completion
from nvisy_dagster.sdk.primitives.model_output import Embedding as Embedding
from nvisy_dagster.sdk.primitives.model_output import StructuredOutput as StructuredOutput
from nvisy_dagster.sdk.primitives.model_output import ToolCallTrace as ToolCallTrace
from nvisy_dagster.sdk.primitives.text import Chunk as Chunk
from nvisy_dagster.sdk.primitives.text import Document as Document
from nvisy_dagster.sdk.primitives.training import FineTuneSample as FineTuneSample
from nvisy_dagster.sdk.primitives.training import Message as Message

PRIMITIVE_MODELS: dict[str, type[Record]] = {
    model.primitive: model
    for model in (
        Document,
        Chunk,
        Row,
        Blob,
        Embedding,
        Completion,
        StructuredOutput,
        ToolCallTrace,
        Image,
        Audio,
        FineTuneSample,
        Raw,
    )
}
"""The model of each primitive, in the order of `edge_type.PRIMITIVES`."""
