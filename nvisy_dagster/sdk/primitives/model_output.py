"""Primitives that come out of AI models and agents."""

from typing import Annotated, ClassVar

from pydantic import Field, JsonValue

from nvisy_dagster.sdk.primitives.base import Record
from nvisy_dagster.sdk.primitives.types import Count, JsonObject, Seconds, UtcDatetime, Vector


class Embedding(Record):
    """A vector that stands for a text or another content."""

    primitive: ClassVar[str] = "embedding"

    text: str | None = None
    """The text that was embedded, when there was one."""
    vector: Vector
    """The vector; all vectors of an edge have one dimension."""
    model: str
    """Model that made the vector."""
    tokens: Count | None = None
    """Tokens that the call was charged for."""


class Completion(Record):
    """What a language model answered."""

    primitive: ClassVar[str] = "completion"

    text: str
    """The answer."""
    model: str
    """Model that answered."""
    prompt: str | None = None
    """What it was asked."""
    finish_reason: str | None = None
    """Why it stopped, in the provider's words, such as `stop` or `length`."""
    prompt_tokens: Count | None = None
    """Tokens of the question."""
    completion_tokens: Count | None = None
    """Tokens of the answer."""


class StructuredOutput(Record):
    """A value that a language model gave in a shape it was asked for."""

    primitive: ClassVar[str] = "structured_output"

    data: JsonValue
    """The value, stored as JSON text."""
    schema_name: str | None = None
    """Name of the JSON Schema that it was asked to follow."""
    valid: bool
    """Whether it follows that schema."""
    error: str | None = None
    """How it fails to follow the schema."""
    model: str | None = None
    """Model that gave it."""


class ToolCallTrace(Record):
    """One call of a tool by an agent."""

    primitive: ClassVar[str] = "tool_call_trace"

    tool: Annotated[str, Field(min_length=1)]
    """Name of the tool."""
    arguments: JsonObject
    """What it was called with, stored as JSON text."""
    result: JsonValue | None = None
    """What it returned, stored as JSON text; null when it returned nothing or failed."""
    error: str | None = None
    """How the call failed."""
    call_id: str | None = None
    """The provider's id of the call."""
    started_at: UtcDatetime | None = None
    """When the call began."""
    duration_seconds: Seconds | None = None
    """How long the call took."""
