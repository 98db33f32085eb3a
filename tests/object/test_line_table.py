"""The lines of a block: where they are, and the block with some of them only."""

from contextlib import nullcontext, suppress
from unittest import mock

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nvisy_connectors.object.folder import ObjectInfo, Span
from nvisy_connectors.object.formats import jsonl_library, line_blocks
from nvisy_connectors.object.formats.line_blocks import Block, LineCutter
from nvisy_connectors.object.formats.line_table import LineTable


def block(data: bytes) -> Block:
    info = ObjectInfo(key="x", size=len(data), version="1", modified=None)
    return Block(info, 0, len(data), 1, bytearray(data))


LINES = st.lists(st.sampled_from([b"", b"{}", b"ab", b"0123456", b"x" * 30, b" \r"]), max_size=40)


@given(made=LINES, ends=st.booleans())
@pytest.mark.parametrize("compiled", [True, False])
def test_newlines_are_found(made, ends, compiled):
    data = b"\n".join(made) + b"\n" * ends
    with (
        nullcontext()
        if compiled
        else mock.patch.object(jsonl_library, "library", return_value=None)
    ):
        found = block(data).newlines
    assert found.tolist() == [place for place, code in enumerate(data) if code == ord("\n")]


@given(made=LINES, ends=st.booleans(), chosen=st.sets(st.integers(0, 40)))
def test_the_other_lines_are_blank_for_a_while(made, ends, chosen):
    data = b"\n".join(made) + b"\n" * ends
    table = LineTable(block(data))
    lines = [table.line(index) for index in range(table.count)]
    assert lines == (data.removesuffix(b"\n") if ends else data).split(b"\n")[: table.count]
    wanted = np.array(sorted(one for one in chosen if one < table.count), np.int64)
    with suppress(ZeroDivisionError), table.only(wanted) as shown:
        kept = [lines[index].strip() for index in wanted]
        # What is parsed while the others are blank may fail.
        assert [line.strip() for line in shown.to_pybytes().split(b"\n") if line.strip()] == [
            line for line in kept if line
        ]
        _ = 1 / 0
    assert table.block.data == data
    assert [table.line(index) for index in range(table.count)] == lines


def test_a_block_is_not_copied_to_leave_lines_out():
    table = LineTable(block(b"{}\noops\n{}\n"))
    with table.only(np.array([0, 2])) as shown:
        assert table.block.data == b"{}\n     {}\n"
        assert shown.address == np.frombuffer(table.block.data, np.uint8).ctypes.data


def test_a_byte_order_mark_is_no_part_of_the_first_line():
    data = line_blocks.BOM + b"{}\n{}\n"
    info = ObjectInfo(key="x", size=len(data), version="1", modified=None)
    (made,) = LineCutter(1, 100).feed(Span(info, 0, len(data)), data)
    assert (made.data, made.start, made.end) == (b"{}\n{}\n", 0, len(data))
