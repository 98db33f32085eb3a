"""What a graph may say about failure, speed and time; on a node, or on the graph as default."""

from typing import Annotated, Literal, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_dagster.sdk.params import Model

YEAR_SECONDS = 366 * 24 * 3600

Seconds = Annotated[float, Field(strict=True, gt=0, le=YEAR_SECONDS)]
"""A duration: more than nothing, at most a year."""
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
"""A number of things: at least one."""

OnError = Literal["fail", "dead_letter", "drop"]
Backoff = Literal["fixed", "exponential", "jitter"]

M = TypeVar("M", bound=Model)


class Retry(Model):
    """How often a failing call is made again, and how long the pauses are."""

    max_retries: Annotated[int, Field(strict=True, ge=0, le=1000)] = 3
    """Calls made after the first one."""
    backoff: Backoff = "exponential"
    """`fixed`: the same pause each time. `exponential`: doubled each time. `jitter`: a random
    part of the exponential pause, so that many callers do not come back together."""
    initial_delay_seconds: Seconds = 1.0
    """First pause."""
    max_delay_seconds: Seconds = 30.0
    """Longest pause."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        if self.initial_delay_seconds > self.max_delay_seconds:
            said = "" if "max_delay_seconds" in self.model_fields_set else ", its default"
            raise PydanticCustomError(
                "contradiction",
                "initial_delay_seconds ({initial}) is longer than "
                "max_delay_seconds ({longest}{said})",
                {
                    "initial": f"{self.initial_delay_seconds:g}",
                    "longest": f"{self.max_delay_seconds:g}",
                    "said": said,
                    "remedy": "raise max_delay_seconds or lower initial_delay_seconds",
                },
            )
        return self


class Timeout(Model):
    """How long things may take; what is not said is not limited."""

    call_seconds: Seconds | None = None
    """One call: one batch through an action or into a sink."""
    node_seconds: Seconds | None = None
    """A node, from its first batch to its last."""
    graph_seconds: Seconds | None = None
    """The whole run; said on the graph only."""


class Concurrency(Model):
    """How many calls may be in flight."""

    max_per_node: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    """Calls in flight in one node; by default what its component says."""
    max_global: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    """Calls in flight in the whole graph; said on the graph only."""


class RateLimit(Model):
    """How much a node may ask of a system in a span of time."""

    requests: Count | None = None
    """Calls."""
    records: Count | None = None
    """Records in those calls."""
    tokens: Count | None = None
    """Tokens in those calls."""
    per: Literal["second", "minute"] = "minute"
    """The span."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.requests is None and self.records is None and self.tokens is None:
            raise PydanticCustomError(
                "contradiction",
                "this rate_limit limits nothing",
                {"remedy": "give at least one of requests, records, tokens"},
            )
        return self


class Schedule(Model):
    """When the graph runs by itself."""

    cron: Annotated[str, Field(min_length=1, max_length=256)]
    """Five fields: minute, hour, day of month, month, day of week."""
    timezone: Annotated[str, Field(min_length=1, max_length=64)] = "UTC"
    """IANA name, such as `Europe/Berlin`."""

    @field_validator("timezone")
    @classmethod
    def _known(cls, name: str) -> str:
        try:
            ZoneInfo(name)
        except (ZoneInfoNotFoundError, ValueError, OSError) as error:
            raise PydanticCustomError(
                "timezone",
                "unknown timezone {name}",
                {"name": f'"{name}"', "remedy": 'use an IANA name such as "Europe/Berlin"'},
            ) from error
        return name


class Execution(Model):
    """How the graph is cut into stages and where they run."""

    edges: Literal["auto", "streamed", "materialized"] = "auto"
    """`auto`: stream, but keep on storage what is costly or needed whole. `streamed`: as few
    stages as possible. `materialized`: one stage per node, every edge can be inspected."""
    executor: Literal["in_process", "multiprocess"] | None = None
    """Where stages run; by default what the Dagster deployment says."""


class Checkpoint(Model):
    """How often a run makes its progress durable; a crash repeats at most that much."""

    interval_seconds: Seconds = 5.0
    """Longest time between two checkpoints."""
    interval_rows: Count | None = None
    """Most records between two checkpoints."""


class Policies(Model):
    """The policies that hold for one node: what it says itself, over what the graph says."""

    retry: Retry = Retry()
    timeout: Timeout = Timeout()
    concurrency: Concurrency = Concurrency()
    rate_limit: RateLimit | None = None
    on_error: OnError = "fail"


def over(default: M, own: M | None) -> M:
    """The default, with what `own` says explicitly over it, field by field.

    Raises:
        pydantic.ValidationError: The two contradict each other.
    """
    if own is None or own == default:
        return default
    said = default.model_dump(exclude_unset=True) | own.model_dump(exclude_unset=True)
    return type(default).model_validate(said)
