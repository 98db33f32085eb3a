"""The graph as a person writes it: nodes, edges and what holds for them.

Everything is frozen and closed. Names are snake_case; camelCase is accepted on input.
"""

from functools import cached_property
from typing import Annotated, Any, Literal, Self

from pydantic import (
    Field,
    JsonValue,
    PrivateAttr,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import PydanticCustomError

from nvisy_dagster.graph.places import Places, Step
from nvisy_dagster.graph.policies import (
    Checkpoint,
    Concurrency,
    ErrorLimit,
    Execution,
    OnError,
    Policies,
    RateLimit,
    Retry,
    Schedule,
    Timeout,
    over,
)
from nvisy_dagster.graph.run_tags import RunTags, Tags
from nvisy_dagster.sdk.params import Model

MAX_NODES = 100_000
MAX_EDGES = 500_000

ID_PATTERN = r"^[A-Za-z0-9_][A-Za-z0-9_.\-]*$"

Id = Annotated[str, Field(pattern=ID_PATTERN, max_length=128)]
"""A word of letters, digits, `_`, `-` and `.`; a UUID is one."""
ComponentName = Annotated[str, Field(min_length=1, max_length=128)]
Text = Annotated[str, Field(max_length=10_000)]
Expression = Annotated[str, Field(min_length=1, max_length=100_000)]
OWNER_PATTERN = r"^(team:[A-Za-z0-9_]+|[^@\s:]+@[^@\s:]+\.[^@\s:]+)$"
Owner = Annotated[str, Field(max_length=254, pattern=OWNER_PATTERN)]
Owners = Annotated[tuple[Owner, ...], Field(max_length=100)]
StrictBool = Annotated[bool, Field(strict=True)]


class NodeBase(Model):
    """What every node may say."""

    id: Id
    """Name of the node, unique in its graph; edges refer to it."""
    description: Text | None = None
    """Shown on the node's page."""
    retry: Retry | None = None
    """Over the graph's `retry`, field by field."""
    timeout: Timeout | None = None
    """Over the graph's `timeout`, field by field."""
    concurrency: Concurrency | None = None
    """Over the graph's `concurrency`, field by field."""
    rate_limit: RateLimit | None = None
    """Instead of the graph's `rate_limit`. What `connections.json` says of the connection holds
    besides."""
    on_error: OnError | None = None
    """Instead of the graph's `on_error`."""
    error_limit: ErrorLimit | None = None
    """Instead of the graph's `error_limit`."""
    materialize: StrictBool | None = None
    """`true`: keep what the node makes on storage. `false`: stream it on. By default the graph's
    `execution` decides."""
    owners: Owners = ()
    """Who answers for it: e-mail addresses or `team:name`."""
    tags: Tags = Field(default_factory=dict)
    """Labels to find it by."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """Free for the writer; shown, never interpreted."""

    @model_validator(mode="after")
    def _says_nothing_of_the_whole(self) -> Self:
        if self.timeout and self.timeout.graph_seconds is not None:
            raise _misplaced("timeout", "graph_seconds")
        if self.timeout and self.timeout.drain_seconds != Timeout().drain_seconds:
            raise _misplaced("timeout", "drain_seconds")
        if self.concurrency and self.concurrency.max_global is not None:
            raise _misplaced("concurrency", "max_global")
        return self


def _misplaced(policy: str, key: str) -> PydanticCustomError:
    return PydanticCustomError(
        "misplaced",
        "{key} limits the whole graph, a node cannot say it",
        {"key": key, "at": (policy, key), "remedy": f"move it to the graph's own {policy}"},
    )


class SourceNode(NodeBase):
    """Reads records from a system."""

    type: Literal["source"]
    connector: ComponentName
    """Name of the connector that reads."""
    connection: Id | None = None
    """Name of the connection in `connections.json`."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """What to read; the connector's reference page lists them."""
    incremental: StrictBool = False
    """Read only what changed since the last run that succeeded, and remove from the sinks what is
    gone or was replaced. The first run reads everything."""
    on_removed: Literal["remove", "all", "ignore"] = "remove"
    """What an incremental run does about records that are gone: `remove` what was made of them, but
    fail when all of 10 or more objects are gone at once because the place is empty or another one;
    `all` removes it then too; `ignore` lets it stay, for sinks that cannot remove."""


class ActionNode(NodeBase):
    """Turns records into records."""

    type: Literal["action"]
    action: ComponentName
    """Name of the action."""
    connection: Id | None = None
    """Name of the connection in `connections.json`, for an action that calls a system."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """How to do it; the action's reference page lists them."""


class SinkNode(NodeBase):
    """Writes records to a system."""

    type: Literal["sink"]
    connector: ComponentName
    """Name of the connector that writes."""
    connection: Id | None = None
    """Name of the connection in `connections.json`."""
    params: dict[str, JsonValue] = Field(default_factory=dict)
    """Where to write; the connector's reference page lists them."""


class Route(Model):
    """A way out of a branch."""

    name: Id
    """Name that an edge's `route` refers to."""
    when: Expression
    """DuckDB expression; a record goes down the first route whose expression is true."""


class BranchNode(NodeBase):
    """Sends each record down the first route whose expression is true."""

    type: Literal["branch"]
    routes: Annotated[tuple[Route, ...], Field(min_length=1, max_length=1000)]
    """The routes, tried in this order."""
    default: Id | None = None
    """Route of the records that no expression takes; without it they are dropped."""

    @model_validator(mode="after")
    def _routes_differ(self) -> Self:
        seen: set[str | None] = set()
        names: list[tuple[str, tuple[Step, ...]]] = [
            (route.name, ("routes", index, "name")) for index, route in enumerate(self.routes)
        ]
        if self.default is not None:
            names.append((self.default, ("default",)))
        for name, place in names:
            if name in seen:
                raise PydanticCustomError(
                    "repeated",
                    "another route is named {name} already",
                    {
                        "name": f'"{name}"',
                        "at": place,
                        "remedy": "give each route its own name",
                    },
                )
            seen.add(name)
        return self


Node = Annotated[SourceNode | ActionNode | SinkNode | BranchNode, Field(discriminator="type")]
"""A node; its `type` says which kind."""


class Edge(Model):
    """Records flow along it, from one node to another."""

    from_: Id = Field(alias="from")
    """Id of the node they come from."""
    to: Id
    """Id of the node they go to."""
    route: Id | None = None
    """Out of a branch: the route that this edge carries."""
    input: Id | None = None
    """Into an action that has named inputs: which one. Those of a `join` are `left` and `right`."""

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = dump(self)
        return {"from": document.pop("from_"), **document}


class Graph(Model):
    """A pipeline: sources, actions, branches and sinks, and the edges between them."""

    schema_: Annotated[str, Field(max_length=2048)] | None = Field(default=None, alias="$schema")
    """Address of this schema, for editors."""
    name: Id = "graph"
    """Name of the job; by default the file's name."""
    description: Text | None = None
    """Shown on the job's page."""
    nodes: Annotated[tuple[Node, ...], Field(min_length=1, max_length=MAX_NODES)]
    """What reads, turns and writes records."""
    edges: Annotated[tuple[Edge, ...], Field(max_length=MAX_EDGES)] = ()
    """Which node's records go where."""
    schedule: Schedule | None = None
    """When it runs by itself."""
    execution: Execution = Execution()
    """How it is cut into stages."""
    checkpoint: Checkpoint = Checkpoint()
    """How often progress is made durable."""
    retry: Retry = Retry()
    """Default of every node."""
    timeout: Timeout = Timeout()
    """Default of every node, and the limit of the whole run."""
    concurrency: Concurrency = Concurrency()
    """Default of every node, and the limit of the whole run."""
    rate_limit: RateLimit | None = None
    """Default of every node that has a connection, each for itself."""
    on_error: OnError = "fail"
    """What happens to a record that fails: `fail` ends the run, `dead_letter` keeps the record
    and its reason, `drop` counts it and goes on."""
    error_limit: ErrorLimit | None = None
    """Default of every node whose `on_error` is not `fail`: how many of its records may fail before
    the run is given up."""
    owners: Owners = ()
    """Who answers for it: e-mail addresses or `team:name`."""
    tags: RunTags = Field(default_factory=dict)
    """Labels to find it and its runs by. Dagster acts on four of its own: `dagster/max_retries`
    launches a failed run again so often, which goes on from the checkpoint (with
    `dagster/retry_strategy`, `FROM_FAILURE` or `ALL_STEPS`), `dagster/priority` sends waiting runs
    before others, and `dagster/max_runtime` ends a run after so many seconds."""
    metadata: dict[str, JsonValue] = Field(default_factory=dict)
    """Free for the writer; shown, never interpreted."""

    _places: Places = PrivateAttr(default_factory=Places)

    @property
    def places(self) -> Places:
        """Where the author wrote what."""
        return self._places

    def path(self, *steps: Step) -> str:
        """JSON path, in the document the graph was read from, of this place in the model.

        `graph.path("nodes", 3, "params", "size")` is `$.nodes[3].params.size`, or wherever the
        author wrote it.
        """
        return self._places.path(steps)

    def placed(self, places: Places) -> "Graph":
        """The same graph, read from a document whose paths these are."""
        copy = self.model_copy()
        copy._places = places  # noqa: SLF001 - its own
        return copy

    def policies(self, node: NodeBase) -> Policies:
        """The policies that hold for a node of this graph.

        Raises:
            pydantic.ValidationError: The node's contradict the graph's; a loaded graph has none
                of these.
        """
        connected = getattr(node, "connection", None) is not None
        return Policies.model_construct(
            retry=over(self.retry, node.retry),
            timeout=over(self.timeout, node.timeout),
            concurrency=over(self.concurrency, node.concurrency),
            rate_limit=node.rate_limit or (self.rate_limit if connected else None),
            on_error=node.on_error or self.on_error,
            error_limit=node.error_limit or self.error_limit,
        )

    @cached_property
    def by_id(self) -> dict[str, SourceNode | ActionNode | SinkNode | BranchNode]:
        """The nodes by their ids; of two with one id, the first."""
        return {node.id: node for node in reversed(self.nodes)}

    @model_serializer(mode="wrap")
    def _as_written(self, dump: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = dump(self)
        schema = document.pop("schema_", None)
        return document if schema is None else {"$schema": schema, **document}
