"""How files of format `arrow` are written."""

from typing import Literal

from nvisy_dagster.sdk import Params


class ArrowWriteOptions(Params):
    """How Arrow IPC files (Feather V2) are written."""

    compression: Literal["none", "lz4", "zstd"] = "none"
    """How the buffers of record batches are compressed. `none` is read fastest and can be mapped
    into memory; `zstd` is the smallest."""
