"""Primitives that models are trained on."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from nvisy_dagster.sdk.primitives.base import Record, RecordModel


class Message(RecordModel):
    """One turn of a conversation."""

    role: Literal["system", "developer", "user", "assistant", "tool"]
    """Who speaks."""
    content: str
    """What is said."""


class FineTuneSample(Record):
    """A conversation to fine-tune a chat model on."""

    primitive: ClassVar[str] = "fine_tune_sample"

    messages: Annotated[list[Message], Field(min_length=1)]
    """The turns, in order."""
