"""Names that the project plans, so that "not built yet" can be told from "unknown"."""

PLANNED_CONNECTORS = frozenset({
    "azure",
    "gcs",
    "local",
    "milvus",
    "mssql",
    "mysql",
    "pgvector",
    "pinecone",
    "postgres",
    "qdrant",
    "s3",
    "weaviate",
})
"""Systems that are read or written."""

PLANNED_ACTIONS = frozenset({
    "chunk",
    "chunk_contextual",
    "chunk_similarity",
    "complete",
    "convert",
    "deduplicate",
    "embed",
    "enrich",
    "filter",
    "map",
    "parse",
    "partition",
    "partition_contextual",
    "sort",
    "validate",
})
"""What is done to records."""

PLANNED_PROVIDERS = frozenset({"anthropic", "gemini", "local", "openai"})
"""Model providers; connection types of the actions that call a model."""
