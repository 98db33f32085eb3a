"""Where chunks begin and end, and what they carry."""

import json

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from nvisy_connectors.ai.chunk import UNIT_BYTES, Chunk, ChunkParams
from nvisy_connectors.ai.spans import _byte_positions, cut, windows
from nvisy_connectors.ai.splitters import splitter
from nvisy_connectors.ai.texts import units
from nvisy_connectors.ai.tokenizer import load_tokenizer
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.envelope import payload
from nvisy_dagster.sdk.testing import ActionConformance

pytestmark = pytest.mark.anyio

PROSE = "The quick brown fox jumps over the lazy dog. It barked, once.\n\nThen: silence! Why?\n"
NASTY = (
    "e\u0301\u0301 🎉👩\u200d👩\u200d👧🇩🇪 漢字かな交じり文。\r\nnaïve\u00a0Straße\t\u200bZWSP "
    "\u202eRTL\x00\x1c\n\n\n"
)


class TestChunk(ActionConformance):
    component = Chunk
    primitive = "document"

    @pytest.fixture(params=[("natural", "characters"), ("exact", "tokens")])
    def params(self, request):
        boundary, unit = request.param
        return ChunkParams(size=24, overlap=6, boundary=boundary, unit=unit)

    @pytest.fixture
    def rows(self, documents):
        texts = [PROSE * 3, NASTY * 2, "", " \n\t", "short", PROSE]
        return documents(texts, title=pa.array([*"abcde", None]))

    def refused(self, rows):
        kinds = rows.drop_columns(["text"]).append_column("text", pa.array(range(rows.num_rows)))
        return [
            EdgeType("document", rows.drop_columns(["text"]).schema),
            EdgeType("row", kinds.schema),
        ]


async def chunks(batch, **params) -> pa.RecordBatch:
    async with Chunk(ChunkParams(**params), node_id="chunk") as action:
        return await action.apply(batch)


def spans(text: str, boundary: str, size: int, overlap: int, tokenizer: str | None = None):
    """(start, end, text) of each chunk of one text, from the column that is cut."""
    column = pa.array([text], pa.large_string())
    found = splitter(boundary, size, overlap, tokenizer)(column)
    pieces = cut(column, found).to_pylist()
    return list(zip(found.starts.tolist(), found.ends.tolist(), pieces, strict=True)), found


def check_offsets(text: str, found) -> None:
    assert all(text[start:end] == piece for start, end, piece in found)


def without_overlaps(found) -> str:
    """The text again, from chunks whose offsets overlap."""
    text = ""
    for start, end, piece in found:
        assert start <= len(text) <= end, "chunks leave a gap"
        text += piece[len(text) - start :]
    return text


texts = st.text(max_size=300) | st.lists(
    st.sampled_from([*NASTY, *NASTY.split(), "word", " ", "\r\n", "e\u0301", "🇩🇪"]),
    max_size=120,
).map("".join)
sizes = st.integers(1, 40).flatmap(lambda size: st.tuples(st.just(size), st.integers(0, size - 1)))


@settings(deadline=None)
@given(texts, sizes)
def test_exact_windows_give_the_text_back(text, size_and_overlap):
    size, overlap = size_and_overlap
    found, _ = spans(text, "exact", size, overlap)
    if not text.strip():
        assert found == []
        return
    check_offsets(text, found)
    assert without_overlaps(found) == text
    assert all(end - start == size for start, end, _ in found[:-1])
    starts = [start for start, _, _ in found]
    assert starts == list(range(0, len(starts) * (size - overlap), size - overlap))


@settings(deadline=None)
@given(texts, sizes)
def test_natural_chunks_lose_only_white_space(text, size_and_overlap):
    size, overlap = size_and_overlap
    found, _ = spans(text, "natural", size, overlap)
    check_offsets(text, found)
    covered = np.zeros(len(text), bool)
    for start, end, _ in found:
        assert 0 < end - start <= size
        covered[start:end] = True
    assert all(text[place].isspace() for place in np.flatnonzero(~covered))


@settings(deadline=None)
@given(texts, sizes)
def test_exact_token_windows_give_the_text_back(text, size_and_overlap):
    size, overlap = size_and_overlap
    found, counted = spans(text, "exact", size, overlap, "wordllama")
    check_offsets(text, found)
    assert without_overlaps(found) == (text if text.strip() else "")
    # A character is never cut: four tokens of one byte, after the one that begins every text.
    assert all(counted.tokens <= size + 4)


@settings(max_examples=25, deadline=None)
@given(texts, st.integers(5, 40))
def test_natural_token_chunks_fit_their_size(text, size):
    found, counted = spans(text, "natural", size, size // 4, "wordllama")
    check_offsets(text, found)
    tokenizer = load_tokenizer("wordllama")
    recounted = [len(tokenizer.encode(piece, add_special_tokens=False)) for _, _, piece in found]
    assert recounted == counted.tokens.tolist()
    assert all(count <= size + 4 for count in recounted)


@settings(deadline=None)
@given(st.lists(texts, max_size=6), sizes)
def test_texts_of_a_batch_do_not_mix(column, size_and_overlap):
    """Also where the column is a slice of a larger one."""
    array = pa.array(["before", *column, "after"], pa.large_string()).slice(1, len(column))
    find = splitter("exact", *size_and_overlap, None)
    found = find(array)
    alone = [spans(text, "exact", *size_and_overlap)[0] for text in column]
    assert cut(array, found).to_pylist() == [piece for one in alone for _, _, piece in one]
    assert found.indexes().tolist() == [place for one in alone for place in range(len(one))]


@pytest.mark.parametrize("block_bytes", [1, 7, 1 << 20])
def test_byte_positions_of_characters(monkeypatch, block_bytes):
    monkeypatch.setattr("nvisy_connectors.ai.spans._BLOCK_BYTES", block_bytes)
    text = NASTY * 5
    data = np.frombuffer(text.encode(), np.uint8)
    characters = np.arange(len(text) + 1)
    wanted = [len(text[:place].encode()) for place in characters]
    assert _byte_positions(data, characters).tolist() == wanted


def test_windows_of_the_yardstick():
    """As many as `text[i : i + 512] for i in range(0, max(len - 64, 1), 448)`."""
    lengths = np.array([1, 63, 64, 65, 448, 511, 512, 513, 960, 961, 4000])
    rows, starts, ends = windows(lengths, 512, 64)
    wanted = [
        (row, start, min(start + 512, length))
        for row, length in enumerate(lengths.tolist())
        for start in range(0, max(length - 64, 1), 448)
    ]
    assert list(zip(rows.tolist(), starts.tolist(), ends.tolist(), strict=True)) == wanted


async def test_natural_breaks_at_sentences(documents):
    found = await chunks(documents([PROSE]), size=50, overlap=0)
    assert found.column("text").to_pylist() == [
        "The quick brown fox jumps over the lazy dog.",
        "It barked, once.\n\nThen: silence! Why?",
    ]


async def test_children_carry_the_columns_of_their_document(documents):
    batch = documents(
        ["a" * 30, "", "b" * 15],
        title=pa.array(["one", "two", None]),
        index=pa.array(["clash", "clash", "clash"]),
        vector=pa.array([[1.0], [2.0], [3.0]], pa.list_(pa.float32(), 1)),
    )
    found = await chunks(batch, size=10, overlap=0, boundary="exact")
    made = payload(found)
    assert made.schema.names == ["text", "index", "start", "end", "tokens", "title", "vector"]
    assert made.column("title").to_pylist() == ["one"] * 3 + [None] * 2
    assert made.column("index").to_pylist() == [0, 1, 2, 0, 1]
    assert made.column("start").to_pylist() == [0, 10, 20, 0, 10]
    assert made.column("end").to_pylist() == [10, 20, 30, 10, 15]
    assert made.column("vector").to_pylist() == [[1.0]] * 3 + [[3.0]] * 2
    assert made.column("tokens").null_count == found.num_rows
    parents = batch.column("_id").to_pylist()
    assert found.column("_parent_ids").to_pylist() == [[parents[0]]] * 3 + [[parents[2]]] * 2


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view()])
async def test_any_kind_of_text_in_any_column(documents, kind):
    batch = documents(["x"], body=pa.array(["hello world"], kind))
    found = await chunks(batch, size=6, overlap=1, column="body", boundary="exact")
    assert payload(found).schema.names == ["text", "index", "start", "end", "tokens"]
    assert found.column("text").to_pylist() == ["hello ", " world"]
    assert found.schema.field("text").type == pa.string()


async def test_null_text_is_an_error_of_that_row(documents):
    with pytest.raises(DataError) as caught:
        await chunks(documents(["a", None, "b", None]))
    assert caught.value.rows == {1: "column 'text' is null", 3: "column 'text' is null"}


async def test_a_column_missing_at_run_time_is_named(documents):
    with pytest.raises(ConfigError, match=r"column 'txet' .*did you mean 'text'"):
        await chunks(documents(["a"]), column="txet")


async def test_a_tokenizer_that_truncates_and_pads_does_so_no_more(documents, tmp_path):
    path = tmp_path / "tokenizer.json"
    load_tokenizer("wordllama").save(str(path))
    document = json.loads(path.read_text())
    document["truncation"] = {
        "max_length": 3,
        "strategy": "LongestFirst",
        "stride": 0,
        "direction": "Right",
    }
    path.write_text(json.dumps(document))
    params = {"size": 5, "overlap": 0, "unit": "tokens", "boundary": "exact"}
    found = await chunks(documents([PROSE]), tokenizer=str(path), **params)
    assert "".join(found.column("text").to_pylist()) == PROSE
    assert found.equals(await chunks(documents([PROSE]), **params))


@pytest.mark.parametrize(("name", "content"), [("missing.json", None), ("bad.json", "{}")])
async def test_a_tokenizer_that_is_not_there(documents, tmp_path, name, content):
    path = tmp_path / name
    if content:
        path.write_text(content)
    with pytest.raises(ConfigError, match=name):
        await chunks(documents(["a"]), unit="tokens", tokenizer=str(path))


@pytest.mark.parametrize(
    ("params", "reason"),
    [
        ({"overlap": 512}, r"overlap \(512\) must be less than size \(512\)"),
        ({"size": 0}, "greater than or equal to 1"),
        ({"strategy": "section"}, 'strategy "section" is not built yet'),
        ({"strategy": "sliced"}, "Input should be 'fixed'"),
        ({"chunk_size": 3}, "Extra inputs are not permitted"),
    ],
)
def test_params_that_make_no_sense(params, reason):
    with pytest.raises(ValidationError, match=reason):
        ChunkParams(**params)


def test_units_bound_what_a_call_makes(documents):
    """A large overlap makes many times the text that came in."""
    batch = documents(["x" * 10_000] * 400)
    action = Chunk(ChunkParams(size=100, overlap=99, boundary="exact"))
    parts = list(action.split(batch))
    assert [part.num_rows for part in parts] == [UNIT_BYTES // 1_000_000] * 50


@settings(deadline=None)
@given(st.lists(st.integers(0, 9), max_size=30), st.integers(1, 12), st.integers(1, 5))
def test_units_are_as_large_as_they_may(weights, budget, max_rows):
    batch = pa.record_batch({"place": pa.array(range(len(weights)), pa.int64())})
    found = [
        unit.column("place").to_pylist()
        for unit in units(batch, np.array(weights, np.int64), budget=budget, max_rows=max_rows)
    ]
    assert [place for unit in found for place in unit] == list(range(len(weights)))
    for unit, following in zip(found, [*found[1:], []], strict=False):
        weight = sum(weights[place] for place in unit)
        assert len(unit) == 1 or (weight <= budget and len(unit) <= max_rows)
        if following and len(unit) < max_rows:
            assert weight + weights[following[0]] > budget
