"""What a graph may say about failure, speed and time; on a node, or on the graph as default."""

from itertools import pairwise
from typing import Annotated, Literal, Self, TypeVar
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pydantic import Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from nvisy_dagster.graph.errors import shown, suggest
from nvisy_dagster.sdk.error_tags import ERROR_TAGS
from nvisy_dagster.sdk.params import Model

YEAR_SECONDS = 366 * 24 * 3600

Seconds = Annotated[float, Field(strict=True, gt=0, le=YEAR_SECONDS)]
"""A duration: more than nothing, at most a year."""
Count = Annotated[int, Field(strict=True, ge=1, le=1_000_000_000)]
"""A number of things: at least one."""

RETRIED_TAGS = frozenset(
    name for name, tag in ERROR_TAGS.items() if tag.outcome in {"retried", "either"}
)
"""Tags that an error which may pass by itself can have."""

OnError = Literal["fail", "dead_letter", "drop"]
Backoff = Literal["fixed", "exponential", "jitter"]

M = TypeVar("M", bound=Model)


class Retry(Model):
    """How often a failing call is made again, and how long the pauses are.

    Retries are at most a tenth of the calls to a system, and ten more; beyond that they wait. After
    five failures in a row by `connection`, `server` or `timeout` the calls to the system are held,
    and one at a time probes it, at most 5 s apart, until it answers. Being held and probing use up
    no retries; but in pauses and held together a call waits at most as long as all pauses of this
    policy add up to (7 s by default), and then fails with the system's last error.
    """

    max_retries: Annotated[int, Field(strict=True, ge=0, le=1000)] = 3
    """Calls made after the first one. With the pauses it says how long an outage is ridden out: 8
    retries, with the other defaults, 121 s."""
    backoff: Backoff = "exponential"
    """`fixed`: the same pause each time. `exponential`: doubled each time. `jitter`: a random
    part of the exponential pause, so that many callers do not come back together."""
    initial_delay_seconds: Seconds = 1.0
    """First pause."""
    max_delay_seconds: Seconds = 30.0
    """Longest pause."""
    on: Annotated[tuple[str, ...], Field(min_length=1, max_length=100)] | None = None
    """Tags of the errors to retry, such as `["rate_limit", "server"]`; any other fails at once. By
    default every error that may pass by itself is retried."""

    @field_validator("on")
    @classmethod
    def _retried(cls, tags: tuple[str, ...] | None) -> tuple[str, ...] | None:
        for tag in tags or ():
            if tag not in RETRIED_TAGS:
                why = "is never retried" if tag in ERROR_TAGS else "is no tag of an error"
                raise PydanticCustomError(
                    "tag",
                    "{tag} {why}",
                    {"tag": shown(tag), "why": why, "remedy": suggest(tag, RETRIED_TAGS)},
                )
        return tags

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
    """One call: one batch through an action or into a sink, or a sink's commit of an epoch, which
    may take longer than a batch."""
    node_seconds: Seconds | None = None
    """A node, from its first batch to its last. The run fails then; the next one goes on from the
    checkpoint, and the time counts anew."""
    graph_seconds: Seconds | None = None
    """The whole run; said on the graph only."""
    drain_seconds: Annotated[float, Field(strict=True, ge=0, le=YEAR_SECONDS)] = 20.0
    """A run that is asked to stop may finish what is under way for so long; then it stops at once.
    Said on the graph only."""

    @model_validator(mode="after")
    def _ordered(self) -> Self:
        names = ("call_seconds", "node_seconds", "graph_seconds")
        given = [(name, getattr(self, name)) for name in names if getattr(self, name) is not None]
        for (inner, shorter), (outer, longer) in pairwise(given):
            if shorter > longer:
                raise PydanticCustomError(
                    "contradiction",
                    "{inner} ({shorter}) is longer than {outer} ({longer}), which would end it",
                    {
                        "inner": inner,
                        "shorter": f"{shorter:g}",
                        "outer": outer,
                        "longer": f"{longer:g}",
                        "remedy": f"raise {outer} or lower {inner}",
                    },
                )
        return self


PoolName = Annotated[str, Field(pattern=r"^\S+$", max_length=255)]
"""A name that Dagster takes for a pool."""


class Pool(Model):
    """Room that runs share."""

    pool: PoolName
    """A pool of Dagster, whose limit is set in Dagster: of all runs together, so many stages that
    name it run at once."""


class ConnectionPolicies(Model):
    """What `connections.json` may say of a connection, beside its `type`, for all who use it."""

    rate_limit: "RateLimit | None" = None
    """Of all nodes that use the connection together, in all runs and processes of this machine
    that use the same storage. Each further machine has it once more: divide it by hand."""
    concurrency: Pool | None = None
    """Across runs."""


class Concurrency(Model):
    """How many calls may be in flight, and which pool of Dagster bounds it across runs."""

    max_per_node: Annotated[int, Field(strict=True, ge=1, le=10_000)] | None = None
    """Calls in flight in one node; by default what its component says."""
    max_global: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    """Calls in flight in the whole graph; said on the graph only."""
    pool: PoolName | None = None
    """A pool of Dagster for the stage of the node: of all runs together, as many stages run at once
    as the pool's limit in Dagster says."""

    @model_validator(mode="after")
    def _within_the_whole(self) -> Self:
        one, whole = self.max_per_node, self.max_global
        if one is not None and whole is not None and one > whole:
            raise PydanticCustomError(
                "contradiction",
                "max_per_node ({one}) is more than max_global ({whole}), which all nodes share",
                {
                    "one": one,
                    "whole": whole,
                    "at": ("max_per_node",),
                    "remedy": "raise max_global or lower max_per_node",
                },
            )
        return self


class ErrorLimit(Model):
    """How many records of a node may fail, as dead letters or dropped, before the run is given up.

    They are counted over all attempts at a run. What failed so far is kept, and the checkpoint.
    """

    count: Annotated[int, Field(strict=True, ge=0, le=1_000_000_000)] | None = None
    """Most records that may fail."""
    share: Annotated[float, Field(strict=True, gt=0, lt=1)] | None = None
    """Largest part of the records that may fail, such as `0.01`; judged from the hundredth record
    of the node on."""

    @model_validator(mode="after")
    def _limits_something(self) -> Self:
        if self.count is None and self.share is None:
            raise PydanticCustomError(
                "contradiction",
                "this error_limit limits nothing",
                {"remedy": "give count, share or both"},
            )
        return self


class RateLimit(Model):
    """How much may be asked of a system in a span of time.

    A twentieth of it may go at once, and no more than all of it in any span. A larger call waits
    for that twentieth, and the next ones wait for the rest. Every attempt counts. That of a
    connection holds for all processes of a machine that use the same storage; any other holds
    within one process.
    """

    requests: Count | None = None
    """Calls; of a source, batches."""
    records: Count | None = None
    """Records in those calls."""
    tokens: Count | None = None
    """Tokens in those calls, as the component tells them before it makes one."""
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
    """Time between two checkpoints. One is written when what is under way has been committed:
    sources hold back what slow nodes could not take in a part of that time. A single call, or one
    source record with all that is made of it, may take longer."""
    interval_rows: Count | None = None
    """Most records that a source reads between two checkpoints. Only a source that cannot make
    batches as small as that reads more."""


class Policies(Model):
    """The policies that hold for one node: what it says itself, over what the graph says."""

    retry: Retry = Retry()
    timeout: Timeout = Timeout()
    concurrency: Concurrency = Concurrency()
    rate_limit: RateLimit | None = None
    on_error: OnError = "fail"
    error_limit: ErrorLimit | None = None


def over(default: M, own: M | None) -> M:
    """The default, with what `own` says explicitly over it, field by field.

    Raises:
        pydantic.ValidationError: The two contradict each other.
    """
    if own is None or own == default:
        return default
    said = default.model_dump(exclude_unset=True) | own.model_dump(exclude_unset=True)
    return type(default).model_validate(said)
