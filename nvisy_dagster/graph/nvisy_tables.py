"""Names of the published Nvisy runtime, and what we call them.

The tables are complete: every provider, stream and action that the runtime ships is here, also
those whose connector or action this project has not built yet.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

PROVIDER_CONNECTORS: Mapping[str, str] = {
    "object/s3": "s3",
    "object/gcs": "gcs",
    "object/azure": "azure",
    "sql/postgres": "postgres",
    "sql/mysql": "mysql",
    "sql/mssql": "mssql",
    "vector/qdrant": "qdrant",
    "vector/pinecone": "pinecone",
    "vector/milvus": "milvus",
    "vector/weaviate": "weaviate",
    "vector/pgvector": "pgvector",
}
"""Providers of sources and targets, and the connectors that do it here."""

MODEL_PROVIDERS: Mapping[str, str] = {
    "ai/openai-completion": "openai",
    "ai/openai-embedding": "openai",
    "ai/anthropic-completion": "anthropic",
    "ai/gemini-completion": "gemini",
    "ai/gemini-embedding": "gemini",
}
"""Providers of actions, and our `provider` param."""

STREAMS: Mapping[str, str] = {
    "object/read": "source",
    "object/write": "sink",
    "sql/read": "source",
    "sql/write": "sink",
    "vector/upsert": "sink",
}
"""Streams, and the type of node each belongs to."""

STREAM_PARAMS: Mapping[str, Mapping[str, str | None]] = {
    # The engine sizes batches of objects by bytes: their batchSize has no counterpart.
    "object/read": {"prefix": "prefix", "batch_size": None},
    "object/write": {"prefix": "prefix"},
    "sql/read": {
        "table": "table",
        "columns": "columns",
        "id_column": "key",
        "tiebreaker": "tiebreaker",
        "batch_size": "batch_rows",
    },
    "sql/write": {
        "table": "table",
        "columns": "columns",
        "id_column": "key",
        "tiebreaker": None,
        "batch_size": "batch_rows",
    },
    "vector/upsert": {},
}
"""Params of streams (in snake_case), and ours; `None`: it has no meaning here."""

ACTIONS: Mapping[str, str] = {
    "sql/filter": "filter",
    "sql/project": "map",
    "sql/rename": "map",
    "sql/coerce": "map",
    "ai/embed": "embed",
    "ai/chunk": "chunk",
    "ai/chunk_similarity": "chunk_similarity",
    "ai/chunk_contextual": "chunk_contextual",
    "ai/partition": "partition",
    "ai/partition_contextual": "partition_contextual",
    "ai/enrich": "enrich",
}
"""Actions, and ours."""

ACTION_PARAMS: Mapping[str, Mapping[str, str | None]] = {
    "sql/filter": {},
    "sql/project": {"keep": "select", "drop": "drop"},
    "sql/rename": {"mapping": "rename"},
    "sql/coerce": {},
    "ai/embed": {"dimensions": "dimensions", "batch_size": "batch_rows"},
    "ai/chunk": {"strategy": "strategy", "size": "size", "overlap": "overlap", "level": "level"},
    "ai/chunk_similarity": {"threshold": "threshold"},
    "ai/chunk_contextual": {"max_chunk_size": "max_size"},
    "ai/partition": {
        "strategy": "strategy",
        "pattern": "pattern",
        "include_delimiter": "include_delimiter",
    },
    "ai/partition_contextual": {"max_chunk_size": "max_size"},
    "ai/enrich": {"type": "type", "fields": "fields", "entity_types": "entity_types"},
}
"""Params of actions (in snake_case), and ours; what has another shape is written in
`nvisy_params`."""

TAKES_DOCUMENTS = frozenset(name for name in ACTIONS if name.startswith("ai/"))
"""Actions that take documents; objects read before one of them are read as text."""

FAN_TYPES = frozenset({"fanout", "fanin"})
"""Nodes that only join edges; several edges say the same."""

POLICY_KEYS: Mapping[str, Mapping[str, str]] = {
    "retry": {
        "initial_delay_ms": "initial_delay_seconds",
        "max_delay_ms": "max_delay_seconds",
    },
    "timeout": {"node_timeout_ms": "node_seconds", "graph_timeout_ms": "graph_seconds"},
}
"""Durations in milliseconds (in snake_case), and ours in seconds."""


@dataclass(frozen=True)
class Credentials:
    """Credentials of a provider.

    Args:
        type: Our connection type.
        fields: Its credentials (in snake_case), and our connection's fields.
        params: Credentials that our nodes say, as these params.
        fixed: Params that follow from the provider itself.
    """

    type: str
    fields: Mapping[str, str]
    params: Mapping[str, str] = field(default_factory=dict[str, str])
    fixed: Mapping[str, str] = field(default_factory=dict[str, str])


def _same(*names: str) -> dict[str, str]:
    return {name: name for name in names}


def _sql(name: str) -> Credentials:
    return Credentials(name, _same("host", "port", "database", "username", "password"))


def _model(name: str) -> Credentials:
    return Credentials(
        name, _same("api_key", "base_url"), params=_same("model"), fixed={"provider": name}
    )


_COLLECTION = {"collection_name": "collection"}

CREDENTIALS: Mapping[str, Credentials] = {
    "s3": Credentials(
        "s3", _same("region", "bucket", "access_key_id", "secret_access_key", "endpoint")
    ),
    "gcs": Credentials("gcs", _same("project_id", "bucket", "key_filename")),
    "azure": Credentials(
        "azure",
        {
            **_same("account_name", "account_key", "connection_string"),
            "container_name": "container",
        },
    ),
    "postgres": _sql("postgres"),
    "mysql": _sql("mysql"),
    "mssql": _sql("mssql"),
    "qdrant": Credentials("qdrant", _same("url", "api_key"), _COLLECTION),
    "pinecone": Credentials("pinecone", _same("api_key"), {"index_name": "index"}),
    "milvus": Credentials("milvus", {"address": "url", "token": "token"}, _COLLECTION),
    "weaviate": Credentials("weaviate", _same("host", "grpc_port", "api_key"), _COLLECTION),
    "pgvector": Credentials("pgvector", _same("connection_string"), {"table_name": "table"}),
    **{name.partition("/")[2]: _model(ours) for name, ours in MODEL_PROVIDERS.items()},
}
"""Connection types, and what their credentials are here."""
