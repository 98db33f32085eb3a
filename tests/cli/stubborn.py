"""Components that misbehave."""

import os
import time
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
from pydantic import SecretStr

from nvisy_dagster.sdk import (
    Action,
    Capabilities,
    Connection,
    EdgeType,
    KernelAction,
    Params,
    Sink,
    TransientError,
    connection_of,
)
from nvisy_dagster.sdk.search import Hit


class StubbornParams(Params):
    marker: Path
    """File that is made when it begins."""


class StubbornAction(KernelAction[StubbornParams]):
    """Cannot be cancelled."""

    name = "stubborn"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    def transform(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        self.params.marker.write_text(str(os.getpid()))
        time.sleep(60)
        return batch


class LeakyConnection(Connection):
    """A system with a key."""

    type = "leaky"

    key: SecretStr
    """Its key."""
    port: int = 1
    """Its port."""


class LeakyParams(Params):
    """None."""

    crash: bool = False
    """Raise what is no error of ours."""


class LeakySink(Sink[LeakyParams]):
    """Says its secret aloud when it fails."""

    name = "leaky"
    connection_type = LeakyConnection
    capabilities = Capabilities(write_mode="upsert")

    async def write(self, batch: pa.RecordBatch) -> None:
        key = connection_of(self, LeakyConnection).key.get_secret_value()
        if self.params.crash:
            raise RuntimeError(f"cannot log in with {key}")
        raise TransientError(f"refused {key}", remedy=f"change {key}")

    async def commit(self, epoch: int) -> None:
        pass

    async def search(self, vector: Sequence[float], limit: int) -> Sequence[Hit]:
        raise TransientError(
            f"refused {connection_of(self, LeakyConnection).key.get_secret_value()}"
        )


class EchoParams(Params):
    pass


class EchoAction(Action[EchoParams]):
    """Embed by length."""

    name = "echo"

    def output(self, incoming: EdgeType) -> EdgeType:
        return incoming

    async def apply(self, batch: pa.RecordBatch) -> pa.RecordBatch:
        return batch

    async def embed_texts(self, texts: Sequence[str]) -> list[list[float]]:
        return [[float(len(text))] for text in texts]
