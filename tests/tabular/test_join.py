"""`join`: the records of two inputs that belong together, whatever fits in memory."""

import math
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tabular_batches import batch_of, edge

from nvisy_connectors.tabular import arranging, joining
from nvisy_connectors.tabular.join import Join, JoinParams
from nvisy_dagster.sdk import ConfigError, EdgeType
from nvisy_dagster.sdk.envelope import ENVELOPE_NAMES, with_envelope
from nvisy_dagster.sdk.errors import mistakes_in
from nvisy_dagster.sdk.identity import root_ids
from nvisy_dagster.sdk.testing import JoiningActionConformance

HOWS = ["inner", "left", "right", "full", "semi", "anti"]


def of_right(columns):
    """A batch of other ids than `batch_of` makes."""
    batch = columns if isinstance(columns, pa.RecordBatch) else pa.record_batch(columns)
    positions = np.arange(batch.num_rows)
    uri = "file:///data/others.jsonl"
    return with_envelope(batch, ids=root_ids(uri, positions), uri=uri, positions=positions)


class JoinConformance(JoiningActionConformance):
    component = Join

    @pytest.fixture
    def rows(self):
        words = pa.array(list("abcab")).dictionary_encode()
        return batch_of({"k": pa.array([1, 2, None, 2, 9], pa.int32()), "word": words})

    @pytest.fixture
    def others(self):
        columns = {"k": pa.array([2, 1, 2, None, 5], pa.int64()), "x": list("vwxyz")}
        return {"right": of_right(columns)}

    def unfit(self, inputs):
        left = self.incoming(inputs["left"])
        return [
            {"left": left, "right": edge({"k": ["a"]})},
            {"left": left, "right": edge({"x": [1]})},
        ]


class TestInnerJoin(JoinConformance):
    @pytest.fixture
    def params(self):
        return JoinParams(on=["k"])


class TestLeftJoin(JoinConformance):
    @pytest.fixture
    def params(self):
        return JoinParams(on=["k"], how="left")


class TestRightJoin(JoinConformance):
    @pytest.fixture
    def params(self):
        return JoinParams(on=["k"], how="right")


class TestFullJoin(JoinConformance):
    @pytest.fixture
    def params(self):
        return JoinParams(on=["k"], how="full")


class TestAntiJoin(JoinConformance):
    @pytest.fixture
    def params(self):
        return JoinParams(on=["k"], how="anti")


def join(left, right, folder, **params):
    """The action, and the rows of what it made."""
    made = Join(JoinParams.model_validate(params), node_id="j")
    made.made = made.output_of({
        "left": EdgeType("row", left[0].schema),
        "right": EdgeType("row", right[0].schema),
    })
    batches = list(made.gather({"left": left, "right": right}, folder))
    for batch in batches:
        batch.validate(full=True)
        assert batch.schema.equals(made.made.schema)
    return made, [row for batch in batches for row in batch.to_pylist()]


SOURCE = ["_root_id", "_source", "_tags"]


def cut(batch, place):
    return [batch.slice(0, place), batch.slice(place)]


def plain(row):
    return {k: v for k, v in row.items() if k not in ENVELOPE_NAMES}


numbers = st.none() | st.sampled_from([0.0, -0.0, 1.0, 2.5, math.nan, math.inf])
keys = st.tuples(numbers, st.none() | st.sampled_from(["", "a", "ä"]))
sides = st.lists(keys, max_size=12)


@settings(max_examples=40, deadline=None)
@given(
    lefts=sides,
    rights=sides,
    how=st.sampled_from(HOWS),
    places=st.tuples(*[st.integers(0, 12)] * 2),
    memory=st.booleans(),
)
def test_against_brute_force(tmp_path_factory, lefts, rights, how, places, memory):
    def batches(keys, make, place):
        columns = {
            "n": pa.array([k[0] for k in keys], pa.float64()),
            "t": pa.array([k[1] for k in keys], pa.string()).dictionary_encode(),
            "nested": pa.array(
                [{"at": [i]} for i in range(len(keys))], pa.struct([("at", pa.list_(pa.int64()))])
            ),
        }
        return cut(make(columns), place)

    def same(one, other):
        return (
            None not in (*one, *other)
            and one[1] == other[1]
            and (one[0] == other[0] or (math.isnan(one[0]) and math.isnan(other[0])))
        )

    left, right = batches(lefts, batch_of, places[0]), batches(rights, of_right, places[1])
    with pytest.MonkeyPatch.context() as patch:
        if not memory:
            patch.setattr(joining, "MOST_BYTES", -1)
            patch.setattr(arranging, "BUCKET_BYTES", 40)
            patch.setattr(joining, "BATCH_BYTES", 1)
        more = {} if how in {"semi", "anti"} else {"suffix": "_right"}
        made, rows = join(left, right, tmp_path_factory.mktemp("s"), on=["n", "t"], how=how, **more)
    pairs = [(i, j) for i, one in enumerate(lefts) for j, o in enumerate(rights) if same(one, o)]
    found = {i for i, _ in pairs}
    if how in {"semi", "anti"}:
        chosen = [i for i in range(len(lefts)) if (i in found) == (how == "semi")]
        assert [row["nested"]["at"] for row in rows] == [[i] for i in chosen]
        assert made.traced() in {None, len(chosen)}
        return
    if how in {"left", "full"}:
        pairs = sorted([*pairs, *((i, None) for i in range(len(lefts)) if i not in found)])
    if how in {"right", "full"}:
        met = {j for _, j in pairs}
        pairs += [(None, j) for j in range(len(rights)) if j not in met]

    def place(row, name):
        return row[name] and row[name]["at"][0]

    assert [(place(row, "nested"), place(row, "nested_right")) for row in rows] == pairs
    assert made.traced() == sum(len({*side} - {None}) for side in zip(*pairs, strict=True))
    records = [[row for b in side for row in b.to_pylist()] for side in (left, right)]
    for row, (i, j) in zip(rows, pairs, strict=True):
        parents = [side[at] for side, at in zip(records, (i, j), strict=True) if at is not None]
        assert row["_parent_ids"] == [parent["_id"] for parent in parents]
        assert [row[c] for c in SOURCE] == [parents[0][c] for c in SOURCE]
        own = (parents[0]["n"], parents[0]["t"])
        assert repr((row["n"], row["t"])) == repr(own)
    assert len({row["_id"] for row in rows}) == len(rows)


def test_ids_follow_from_both(tmp_path):
    left, right = batch_of({"k": [1, 2]}), of_right({"k": [2, 1, 2]})
    _, rows = join([left], [right], tmp_path, on=["k"])
    _, again = join([left], [right.take(pa.array([2, 1, 0]))], tmp_path, on=["k"])
    assert len({row["_id"] for row in rows}) == 3
    assert {row["_id"] for row in rows} == {row["_id"] for row in again}
    _, other = join([left], [right], tmp_path, on=["k"], how="left")
    assert [row["_id"] for row in other] == [row["_id"] for row in rows]


def test_the_same_record_alone_on_either_side_becomes_two(tmp_path):
    batch = batch_of({"a": [1, 2], "b": [2, 3]})
    on = [{"left": "a", "right": "b"}]
    _, rows = join([batch], [batch], tmp_path, on=on, how="full", suffix="_r")
    assert [tuple(plain(row).values()) for row in rows] == [
        (1, 2, None, None),
        (2, 3, 1, 2),
        (None, None, 2, 3),
    ]
    _, alone = join([batch], [batch.slice(1)], tmp_path, on=on, how="full", suffix="_r")
    _, others = join([batch.slice(1)], [batch], tmp_path, on=on, how="full", suffix="_r")
    lonely = {row["_id"] for row in (*alone, *others)}
    assert len(lonely) == len(alone) + len(others) - 1  # the pair is in both


def test_what_is_compared_comes_out_once_as_what_holds_both(tmp_path):
    left = batch_of({"k": pa.array([1, -2], pa.int8()), "x": [1, 2]})
    right = of_right({"k": pa.array([1, 2**63], pa.uint64()), "x": [3, 4]})
    made, rows = join([left], [right], tmp_path, on=["k"], how="full", suffix="_r")
    assert [tuple(plain(row).values()) for row in rows] == [
        (1, 1, 3),
        (-2, 2, None),
        (2**63, None, 4),
    ]
    kinds = {field.name: field.type for field in made.made.schema}
    assert (kinds["k"], kinds["x"]) == (pa.decimal128(20), pa.int64())
    made, _ = join([left], [right], tmp_path, on=["k"], how="left", suffix="_r")
    assert made.made.schema.field("k").type == pa.int8()


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("how", ["left", "right", "full"])
def test_an_input_of_which_nothing_is_known(tmp_path, how, known):
    left = batch_of({"k": pa.array([1, 2], pa.int8()), "x": [1, 2]})
    right = of_right({"x": [3, 4], "y": ["a", "b"], "k": pa.array([1, 2], pa.int64())})
    params = JoinParams(on=["k"], how=how, columns=["y", "x"], suffix="_r")
    for inputs in ({"left": [], "right": [right]}, {"left": [left], "right": []}):
        action = Join(params, node_id="j")
        if known:
            sides = {"left": EdgeType("row", left.schema), "right": EdgeType("row", right.schema)}
            action.made = action.output_of(sides)
        rows = [row for batch in action.gather(inputs, tmp_path) for row in batch.to_pylist()]
        of_left = not inputs["right"]
        if how == ("right" if of_left else "left"):
            assert (rows, action.traced()) == ([], 0)
            continue
        assert action.traced() == 2
        if of_left:
            wanted = [{"k": k, "x": k, "y": None, "x_r": None} for k in (1, 2)]
        else:
            wanted = [
                {"k": k, "x": None, "y": y, "x_r": x} for k, x, y in ((1, 3, "a"), (2, 4, "b"))
            ]
        if not known:
            wanted = [
                {"k": row["k"], "x": row["x"]}
                if of_left
                else {"k": row["k"], "y": row["y"], "x": row["x_r"]}
                for row in wanted
            ]
        assert [plain(row) for row in rows] == wanted


@pytest.mark.parametrize("memory", [joining.MOST_BYTES, 0])
def test_a_large_record_that_is_in_many_pairs_is_not_held_as_often(tmp_path, monkeypatch, memory):
    monkeypatch.setattr(joining, "MOST_BYTES", memory)
    rights = [*range(1, 3000), 0]
    right = of_right({"k": rights, "text": ["x" * 2_000_000 if k == 0 else "" for k in rights]})
    left = batch_of({"k": [0] * 100})
    made = Join(JoinParams(on=["k"])).gather({"left": [left], "right": [right]}, tmp_path)
    sizes = [(batch.num_rows, batch.nbytes) for batch in made]
    assert sum(rows for rows, _ in sizes) == 100
    assert max(size for _, size in sizes) < 2 * arranging.BATCH_BYTES


TIMES = [datetime(2024, 2, 29, 12, 30, 15, us, tzinfo=UTC) for us in (1, 2)]
TYPES = {
    "moments": (
        pa.array(TIMES, pa.timestamp("us", "Europe/Berlin")),
        pa.array(TIMES, pa.timestamp("us", "UTC")),
    ),
    "ns": (pa.array([1, 2], pa.timestamp("ns")), pa.array([1, 2], pa.timestamp("ns"))),
    "spans": (pa.array([1, 2], pa.duration("s")), pa.array([1000, 2000], pa.duration("ms"))),
    "days": (pa.array([1, 2], pa.date32()), pa.array([1, 2], pa.date32()).cast(pa.date64())),
    "large": (pa.array([2**63 - 1, 1]), pa.array([2**63 - 1, 1], pa.uint64())),
    "decimals": (
        pa.array([Decimal("1.5"), 2], pa.decimal128(5, 2)),
        pa.array([Decimal("1.50000"), 2], pa.decimal128(12, 5)),
    ),
    "half": (pa.array([1.5, 2], pa.float16()), pa.array([1.5, 2], pa.float64())),
    "bytes": (pa.array([b"ab", b"cd"], pa.binary(2)), pa.array([b"ab", b"cd"], pa.large_binary())),
    "views": (pa.array(["x", "y"], pa.string_view()), pa.array(["x", "y"], pa.large_string())),
    "truths": (pa.array([True, False]), pa.array([True, False])),
    "small": (pa.array([1, 2], pa.int8()), pa.array([1, 2], pa.float32())),
    "day": (pa.array([1, 2], pa.time32("s")), pa.array([1000, 2000], pa.time32("ms"))),
}


@pytest.mark.parametrize("name", TYPES)
def test_types_are_compared_as_what_holds_both(tmp_path, name):
    one, other = TYPES[name]
    left = batch_of(pa.record_batch([one], names=["a"]))
    right = of_right(pa.record_batch([other, pa.array([0, 1])], names=["b", "place"]))
    _, rows = join([left], [right], tmp_path, on=[{"left": "a", "right": "b"}], columns=["place"])
    assert [row["place"] for row in rows] == [0, 1]


def test_columns_of_any_type_come_along(tmp_path):
    columns = {
        "k": [1, 2, 3],
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32(), 2)),
        "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "ns": pa.array([1, None, 3], pa.timestamp("ns", "UTC")),
        "half": pa.array([1.5, None, 2.0], pa.float16()),
        "word": pa.array(["a", "b", None]).dictionary_encode(),
        "nothing": pa.nulls(3),
    }
    batch = batch_of(pa.record_batch(columns))
    right = of_right(pa.record_batch(columns))
    _, rows = join([batch], [right], tmp_path, on=["k"], suffix="_r")
    wanted = [plain(row) for row in batch.to_pylist()]
    assert repr([plain(row) for row in rows]) == repr([
        row | {f"{name}_r": row[name] for name in columns if name != "k"} for row in wanted
    ])


@pytest.mark.parametrize(
    ("params", "told"),
    [
        ({"on": ["key"]}, {("on", 0): "the right input has no column 'key'"}),
        (
            {"on": [{"left": "k", "right": "kk"}, {"left": "nn", "right": "k"}]},
            {
                ("on", 0, "right"): "the right input has no column 'kk'",
                ("on", 1, "left"): "the left input has no column 'nn'",
            },
        ),
        (
            {"on": [{"left": "k", "right": "t"}], "suffix": "_r"},
            {("on", 0): "left 'k' and right 't' are int64 and string, which cannot be compared"},
        ),
        (
            {"on": ["s"], "suffix": "_r"},
            {("on", 0): "left 's' and right 's' are of type struct<a: int64>, which cannot be"},
        ),
        ({"on": ["k"]}, {(): "the right input brings columns 't', 's', which would be there"}),
        (
            {"on": ["k"], "columns": ["T", "u"]},
            {
                ("columns", 0): "the right input has no column 'T'",
                ("columns", 1): "the right input has no column 'u'",
            },
        ),
        (
            {"on": ["k"], "columns": ["s"]},
            {("columns", 0): "the right input brings column 's', which would be there"},
        ),
        ({"on": ["k"], "columns": ["_id"]}, {("columns", 0): "'_id' is a column of the envelope"}),
    ],
)
def test_refusals_name_the_place(params, told):
    batch = pa.record_batch({"k": [1], "t": ["x"], "s": [{"a": 1}]})
    with pytest.raises(ConfigError) as refused:
        Join(JoinParams.model_validate(params)).output_of({
            "left": edge(batch),
            "right": edge(batch),
        })
    found = {one.place: one.message for one in mistakes_in(refused.value)}
    assert told.keys() <= found.keys()
    assert all(found[place].startswith(message) for place, message in told.items())


MUCH = """
import sys, tempfile
from pathlib import Path
import numpy as np, pyarrow as pa
from nvisy_connectors.tabular.join import Join, JoinParams
from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

class Made:
    def __init__(self, uri): self.uri = uri
    def __iter__(self):
        draw = np.random.default_rng(len(self.uri))
        for start in range(0, 2_000_000, 50_000):
            k = draw.integers(0, 2_000_000, 50_000)
            text = pa.array(np.char.add("x" * 200, k.astype("U10")))
            places = np.arange(start, start + 50_000)
            columns = pa.record_batch({"k": k, self.uri: text})
            ids = root_ids(self.uri, places)
            yield with_envelope(columns, ids=ids, uri=self.uri, positions=places)

join = Join(JoinParams(on=["k"], how=sys.argv[1], memory_limit="256MB"), node_id="j")
with tempfile.TemporaryDirectory() as scratch:
    inputs = {"left": Made("left"), "right": Made("right")}
    rows = sum(batch.num_rows for batch in join.gather(inputs, Path(scratch)))
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(rows, int(status["VmHWM"].split()[0]) >> 10)
"""


@pytest.mark.soak
@pytest.mark.parametrize(("how", "about"), [("inner", 2_000_000), ("full", 3_470_000)])
def test_memory_is_bounded(how, about):
    """Two inputs of 700 MB each."""
    command = [sys.executable, "-c", MUCH, how]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=190)
    assert done.returncode == 0, done.stderr
    rows, peak = map(int, done.stdout.split())
    assert abs(rows - about) < 0.05 * about
    assert peak < 800
