"""Lines that break off in the midst of columns that are already filled: nothing of them is left."""

import numpy as np
import pyarrow as pa
import pytest

from nvisy_connectors.object.folder import ObjectInfo
from nvisy_connectors.object.formats.jsonl_parse import read_rows
from nvisy_connectors.object.formats.jsonl_rows import ROW, SUSPECT, LineReader
from nvisy_connectors.object.formats.line_blocks import Block
from nvisy_connectors.object.formats.line_table import LineTable

SCHEMA = pa.schema({
    "rows": pa.list_(
        pa.struct({
            "n": pa.int16(),
            "ok": pa.bool_(),
            "texts": pa.list_(pa.string()),
            "more": pa.list_(pa.list_(pa.struct({"d": pa.decimal128(5, 2), "t": pa.string()}))),
        })
    ),
    "last": pa.int64(),
})
FULL = (
    b'{"rows": [{"n": 1, "ok": true, "texts": ["a", null, "bc"]}, null, {"more": [[{"d": 1.5},'
    b' {"t": "x"}], null, [], [{"d": null, "t": "yz"}]]}], "last": 7}'
)
OTHERS = [FULL, b'{"last": 1}', FULL.replace(b'"a"', b'"other"'), b'{"rows": []}']
DRIFTED = FULL.replace(b"7", b"7.5")
BROKEN = [FULL.replace(b"7", b"x"), FULL[:-1], FULL.replace(b'"yz"', b"y"), DRIFTED]


@pytest.mark.parametrize("broken", BROKEN)
@pytest.mark.parametrize("rescues", [True, False])
def test_others_are_read_as_if_it_was_not_there(broken, rescues):
    reader = LineReader(SCHEMA, declared=False)
    stays = rescues and broken == DRIFTED
    for made in ([broken, *OTHERS], [FULL, broken, broken, *OTHERS], [*OTHERS, broken]):
        data = bytearray().join(line + b"\n" for line in made)
        info = ObjectInfo(key="x", size=len(data), version="1", modified=None)
        lines = LineTable(Block(info, 0, len(data), 1, data))
        kinds, rows = reader.read(lines, rescues=rescues)
        rows.validate(full=True)
        is_other = np.array([line is not broken for line in made])
        assert kinds.tolist() == np.where(is_other | stays, ROW, SUSPECT).tolist()
        rows = rows.filter(pa.array(is_other)) if stays else rows
        with lines.only(np.flatnonzero(is_other)) as others:
            wanted = read_rows(others, SCHEMA, declared=False)
        assert rows.select(SCHEMA.names).equals(wanted)
