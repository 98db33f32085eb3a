"""How JSON lines are read, as a graph says it."""

from typing import Literal

from pydantic import Field

from nvisy_dagster.sdk import Params

MIB = 1 << 20


class JsonlReadOptions(Params):
    """How JSON lines become columns."""

    on_drift: Literal["fail", "dead_letter", "widen"] | None = None
    """What happens to a line of JSON that drifted from the columns: it has a field that none of the
    lines had from which they were inferred, or a value that is none of its column's type. By
    default it is a bad record, as a line that is no JSON is, and `on_error` of the node decides.
    `dead_letter` is the same, and says so: the graph is refused unless `on_error` of the node is
    `dead_letter` too. `fail`: the run fails, with the file, the line, the field and both types,
    whatever `on_error` does with lines that are no JSON. `widen`: the record goes on with what
    fits, its other columns null, and with the rest as a JSON object in the column `_rescued_data`,
    which is null in all other records; columns of which only nulls are seen where they are inferred
    are text. A list of which some part does not fit is rescued whole. With `columns` other fields
    are ignored still."""
    sample_bytes: int = Field(default=8 * MIB, ge=1, le=512 * MIB)
    """How much of the first objects is held in memory to infer the columns from, unless `columns`
    tells them. Whole numbers and fractions make a column of floats; where lines contradict each
    other otherwise, the run fails, or what most of them say holds if bad records do not fail it."""
