"""Reading single rows again, by their keys, which stand in the places of rejected records."""

from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from urllib.parse import unquote

import numpy as np
import pyarrow as pa
from anyio import to_thread

from nvisy_connectors.sql.postgres.copy_out import Rows
from nvisy_connectors.sql.postgres.pages import Key, Pages
from nvisy_dagster.sdk import Decoded, RejectedRecord
from nvisy_dagster.sdk.identity import ids_to_array, root_ids_of

AT_ONCE = 128
"""Rows that one query asks for. They become one batch, whatever they hold now: asked again, the
same letters are cut in the same way."""


@dataclass(frozen=True)
class _Wanted:
    """A rejected row, and the key by which it is found; `None` if it cannot be."""

    rejected: RejectedRecord
    key: Key | None


class RowsAgain:
    """Reads rejected rows again.

    Args:
        pages: Which rows the source reads now, and how.
        location: URI of the table that it reads now.
        fetch: Those of the rows of some keys that are there and meet the condition.
    """

    def __init__(
        self,
        pages: Pages,
        location: str,
        fetch: Callable[[Sequence[Key]], AsyncGenerator[Rows, None]],
    ) -> None:
        self._pages = pages
        self._location = location
        self._fetch = fetch

    async def decode(self, rejected: Sequence[RejectedRecord]) -> AsyncGenerator[Decoded, None]:
        """What they are now; see `Source.decode`."""
        for start in range(0, len(rejected), AT_ONCE):
            some = [_Wanted(one, self._key(one)) for one in rejected[start : start + AT_ONCE]]
            yield await self._decode(some)

    async def _decode(self, wanted: Sequence[_Wanted]) -> Decoded:
        waiting = dict(zip(_ids([one.rejected for one in wanted]), wanted, strict=True))
        records: list[pa.RecordBatch] = [pa.RecordBatch.from_pylist([], self._pages.schema)]
        refused: list[RejectedRecord] = []
        before = None
        keys = [one.key for one in wanted if one.key is not None]
        async with aclosing(self._rows(keys)) as pieces:
            async for rows in pieces:
                page = await to_thread.run_sync(self._pages.page, rows, before)
                before = page.last
                # A key that is compared otherwise now may find others.
                asked = [id_ in waiting for id_ in page.ids.to_pylist()]
                for row, one in page.rejected.items():
                    if asked[row]:
                        refused.append(one)
                records.append(page.data.filter(pa.array(np.array(asked, np.bool_)[page.kept])))
                for id_ in page.ids.to_pylist():
                    waiting.pop(id_, None)
        refused += [self._missing(one) for one in waiting.values()]
        return Decoded(pa.concat_batches(records), refused)

    async def _rows(self, keys: Sequence[Key]) -> AsyncGenerator[Rows, None]:
        if not keys:
            return
        async with aclosing(self._fetch(keys)) as pieces:
            async for rows in pieces:
                yield rows

    def _key(self, rejected: RejectedRecord) -> Key | None:
        """The key of a row that has the table and the key columns of now."""
        if rejected.uri == self._location:
            by_number = self._pages.by_number and rejected.position is not None
            return [str(rejected.position)] if by_number else None
        place, _, tail = rejected.uri.partition("?")
        if place != self._location or self._pages.by_number:
            return None
        pairs = [pair.partition("=") for pair in tail.split("&")]
        if [unquote(name) for name, _, _ in pairs] != list(self._pages.key_names):
            return None
        return [unquote(value) for _, _, value in pairs]

    def _missing(self, wanted: _Wanted) -> RejectedRecord:
        one = wanted.rejected
        row = _shown(one)
        if wanted.key is not None:
            reason = "it is gone, or does not meet the condition of the source any more"
        elif one.uri.partition("?")[0] != self._location:
            reason = f"the source reads {self._location} now"
        else:
            names = ", ".join(self._pages.key_names)
            reason = f"the source tells rows apart by other columns now: {names}"
        return replace(one, reason=f"the row {row}: {reason}", tag="not_found")


def _shown(rejected: RejectedRecord) -> str:
    return rejected.uri if "?" in rejected.uri else f"{rejected.uri}, key {rejected.position}"


def _ids(rejected: Sequence[RejectedRecord]) -> list[bytes]:
    """The ids that their records would have."""
    uris = [one.uri for one in rejected]
    positions = np.array([one.position or 0 for one in rejected], np.int64)
    return ids_to_array(root_ids_of(uris, np.ones(len(uris), np.int64), positions)).to_pylist()
