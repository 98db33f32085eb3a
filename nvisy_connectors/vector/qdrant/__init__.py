"""Qdrant: a server reached by URL, or a folder opened by Qdrant's engine inside this process.

`store.py` is the small interface that both back ends (`server_store.py`, `edge_store.py`) have in
common; the components know only that interface. Only the two stores import a Qdrant package, and
only when they are opened.
"""

from nvisy_connectors.vector.qdrant.connection import QdrantConnection as QdrantConnection
from nvisy_connectors.vector.qdrant.sink import QdrantSink as QdrantSink
from nvisy_connectors.vector.qdrant.source import QdrantSource as QdrantSource

__all__ = ["QdrantConnection", "QdrantSink", "QdrantSource"]
