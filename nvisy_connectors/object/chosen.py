"""Which objects of a listing a source reads."""

from collections.abc import Sequence

from nvisy_connectors.object.folder import Folder, ObjectInfo
from nvisy_connectors.object.glob import compile_glob
from nvisy_connectors.object.params import WHOLE, ReadParams

TABLES_LEAVE_OUT = r"\.|_(?![^/]*=)"
"""How names begin that are no part of a table: Spark, Hive and Arrow keep `_SUCCESS`, `_metadata`,
`_temporary/` and `.part-0.crc` beside the parts. A folder `_day=2024-01-01` tells a column."""

FILES_LEAVE_OUT = r"_SUCCESS$|_temporary(?:/|$)"
"""Those that are no files of a user, whatever is in them: `_index.md` is one."""


class Choice:
    """What the params choose.

    Args:
        params: What the source was told.
        folder: Where the objects are.
    """

    def __init__(self, params: ReadParams, folder: Folder) -> None:
        leave_out = FILES_LEAVE_OUT if params.format in WHOLE else TABLES_LEAVE_OUT
        whole = folder.whole_names
        self._plain = compile_glob("**", leave_out, whole_names=whole)
        self._chosen = compile_glob(params.glob or "**", leave_out, whole_names=whole)
        self.any_listed = False
        """Whether there was an object."""
        self.left_out: ObjectInfo | None = None
        """Some object that holds something, and that `glob` did not choose."""

    def of(self, page: Sequence[ObjectInfo]) -> list[ObjectInfo]:
        """Those of a page that are to be read."""
        self.any_listed = self.any_listed or bool(page)
        found = [info for info in page if self._chosen.fullmatch(info.key)]
        if self.left_out is None and len(found) < len(page):
            self.left_out = next(filter(self._is_missed, page), None)
        return found

    def _is_missed(self, info: ObjectInfo) -> bool:
        if self._chosen.fullmatch(info.key):
            return False
        # A marker such as `_SUCCESS` is all that Spark leaves of a table without rows.
        marker = info.size == 0 or info.key.rpartition("/")[2].startswith(".")
        return not marker or self._plain.fullmatch(info.key) is not None
