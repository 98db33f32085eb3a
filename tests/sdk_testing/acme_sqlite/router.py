"""Route records by the length of their text."""

from collections.abc import Mapping, Sequence

import pyarrow as pa
import pyarrow.compute as pc

from nvisy_dagster.sdk import Capabilities, ConfigError, EdgeType, Params, Router


class LengthParams(Params):
    """Where long begins."""

    characters: int = 80
    """Texts of this length or more are long."""


class ByLength(Router[LengthParams]):
    """Send long texts down one route and short ones down another."""

    name = "by_length"
    capabilities = Capabilities(row_wise=True)

    def routes(self) -> Sequence[str]:
        return ["long", "short"]

    def check(self, incoming: EdgeType) -> None:
        if incoming.schema is not None and "text" not in incoming.schema.names:
            raise ConfigError("column 'text' is missing", remedy="route records that have a text")

    async def route(self, batch: pa.RecordBatch) -> Mapping[str, pa.RecordBatch]:
        long = pc.greater_equal(pc.utf8_length(batch.column("text")), self.params.characters)
        return {"long": batch.filter(long), "short": batch.filter(pc.invert(long))}
