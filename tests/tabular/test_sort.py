"""`sort`: all records in order, whatever fits in memory."""

import errno
import resource
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from functools import cmp_to_key
from pathlib import Path

import duckdb
import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from tabular_batches import articles, batch_of, edge

from nvisy_connectors.tabular import arranging
from nvisy_connectors.tabular.sort import Sort, SortParams
from nvisy_dagster.engine.failure import StorageError
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType
from nvisy_dagster.sdk.testing import BlockingActionConformance


class TestSort(BlockingActionConformance):
    component = Sort

    @pytest.fixture
    def params(self):
        return SortParams(by=[{"column": "score", "descending": True}, "lang"])

    @pytest.fixture
    def rows(self):
        return articles()

    def refused(self, rows):
        maps = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
        return [edge({"lang": ["a"]}), edge({"lang": ["a"], "score": maps})]


def sort(batches, folder, **params):
    action = Sort(SortParams.model_validate(params))
    action.output(EdgeType("row", batches[0].schema))
    return [row for batch in action.gather(batches, folder) for row in batch.to_pylist()]


keys = st.tuples(
    st.none() | st.integers(-3, 3), st.none() | st.sampled_from(["", "A", "a", "ä", "b", "€", "😀"])
)


@settings(max_examples=60, deadline=None)
@given(
    values=st.lists(keys, min_size=1, max_size=25),
    descending=st.tuples(st.booleans(), st.booleans()),
    nulls=st.tuples(*[st.sampled_from(["first", "last"])] * 2),
    cut=st.integers(0, 25),
)
def test_the_order_is_that_of_the_keys_and_else_that_of_the_sources(
    tmp_path_factory, values, descending, nulls, cut
):
    def compare(one, other):
        for place in (0, 1):
            left, right = values[one][place], values[other][place]
            if left == right:
                continue
            if left is None or right is None:
                return -1 if (left is None) == (nulls[place] == "first") else 1
            if place:
                left, right = left.encode(), right.encode()
            return (-1 if left < right else 1) * (-1 if descending[place] else 1)
        return one - other

    batch = batch_of({
        "n": pa.array([v[0] for v in values], pa.int64()),
        "t": pa.array([v[1] for v in values], pa.string()),
        "place": list(range(len(values))),
    })
    by = [
        {"column": column, "descending": descending[place], "nulls": nulls[place]}
        for place, column in enumerate(("n", "t"))
    ]
    batches = [batch.slice(0, cut), batch.slice(cut)]
    found = sort(batches, tmp_path_factory.mktemp("scratch"), by=by)
    wanted = sorted(range(len(values)), key=cmp_to_key(compare))
    assert [row["place"] for row in found] == wanted


def test_every_type_comes_back_as_it_went(tmp_path):
    moment = datetime(2024, 2, 29, 12, 30, 15, 123456, tzinfo=UTC)
    columns = {
        "n": pa.array([2, 1, None], pa.int8()),
        "u": pa.array([2**64 - 1, 0, None], pa.uint64()),
        "f": pa.array([float("nan"), -0.0, None], pa.float32()),
        "d": pa.array([Decimal("1.25"), None, Decimal("-3.5")], pa.decimal128(20, 4)),
        "b": pa.array([b"\0\xff", b"", None], pa.large_binary()),
        "at": pa.array([moment, None, moment], pa.timestamp("us", "Europe/Berlin")),
        "utc": pa.array([1000, None, 2**62 // 1000 * 1000], pa.timestamp("ns", "UTC")),
        "ns": pa.array([1000, None, 2**62 // 1000 * 1000], pa.timestamp("ns")),
        "s": pa.array([1, None, 2**33], pa.timestamp("s")),
        "day": pa.array([1, None, 3], pa.date32()),
        "span": pa.array([1000, None, 2**62 // 1000 * 1000], pa.duration("ns")),
        "half": pa.array([1.5, None, 2.0], pa.float16()),
        "vector": pa.array([[1.0, 2.0], [3.0, 4.0], None], pa.list_(pa.float32(), 2)),
        "list": pa.array([["a", None], [], None], pa.list_(pa.string())),
        "struct": pa.array([{"x": 1, "y": [1]}, {"x": None, "y": None}, None]),
        "map": pa.array([[("a", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "word": pa.array(["a", "b", None]).dictionary_encode(),
        "nothing": pa.nulls(3),
        "yes": pa.array([True, None, False]),
    }
    batch = batch_of(pa.record_batch(columns))
    action = Sort(SortParams(by=["n"]))
    assert action.output(EdgeType("row", batch.schema)).schema.equals(batch.schema)
    made = pa.Table.from_batches(list(action.gather([batch], tmp_path))).combine_chunks()
    wanted = batch.take(pa.array([1, 0, 2]))
    assert made.schema.equals(batch.schema, check_metadata=True)
    for name in batch.schema.names:
        assert repr(made.column(name).to_pylist()) == repr(wanted.column(name).to_pylist()), name


class Made:
    """Batches that are made anew each time that they are asked for."""

    def __init__(self, batches, rows, width):
        self.batches, self.rows, self.width = batches, rows, width

    def __iter__(self):
        draw = np.random.default_rng(3)
        for _ in range(self.batches):
            numbers = draw.integers(0, 1 << 40, self.rows)
            text = [f"{n} {'x' * self.width}" for n in numbers]
            word = pa.array([f"w{n % 7}" for n in numbers]).dictionary_encode()
            yield batch_of(pa.record_batch({"n": numbers, "text": text, "word": word}))


@pytest.mark.parametrize("buckets", [3, 512])
def test_what_is_dealt_into_buckets_is_in_order(tmp_path, monkeypatch, buckets):
    monkeypatch.setattr(arranging, "BUCKET_BYTES", 1 << 16)
    monkeypatch.setattr(arranging, "MOST_BUCKETS", buckets)
    made, rows = Made(12, 700, 200), []
    for batch in Sort(SortParams(by=["n"])).gather(made, tmp_path):
        batch.validate(full=True)
        assert len(list(tmp_path.glob("bucket-*"))) < min(buckets, 60)
        rows += batch.to_pylist()
    wanted = sorted((row for batch in made for row in batch.to_pylist()), key=lambda row: row["n"])
    assert rows == wanted


def test_memory_is_bounded(tmp_path):
    """900 MB of records, in a process of its own."""
    code = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parent)]!r}
from pathlib import Path
import numpy as np
from nvisy_connectors.tabular.sort import Sort, SortParams
from test_sort import Made
made, before, rows = Made(90, 5_000, 2_000), -1, 0
action = Sort(SortParams(by=["n"], memory_limit="256MB"))
for batch in action.gather(made, Path({str(tmp_path)!r})):
    found = batch.column("n").to_pylist()
    assert before <= found[0] and found == sorted(found)
    before, rows = found[-1], rows + len(found)
status = dict(line.split(":", 1) for line in open("/proc/self/status"))
print(rows, int(status["VmHWM"].split()[0]) >> 10)
"""
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=180
    )
    assert done.returncode == 0, done.stderr
    rows, peak = map(int, done.stdout.split())
    assert rows == 450_000
    assert peak < 800


def test_a_limit_that_cannot_be_kept_is_named(tmp_path):
    batch = batch_of({"n": [1, 2], "text": ["x" * 3_000_000] * 2})
    action = Sort(SortParams.model_construct(by=["text"], memory_limit="1MB"))
    with pytest.raises(DataError, match="takes more than 1MB of memory: Out of Memory") as refused:
        list(action.gather([batch], tmp_path))
    assert refused.value.remedy == 'raise "memory_limit"'


@pytest.mark.parametrize(
    ("by", "place", "message"),
    [
        (["scoer"], 0, "there is no column 'scoer'"),
        (["score", {"column": "score"}], 1, "'score' is named twice"),
        (["halves"], 0, "'halves' is of type halffloat, which has no order"),
    ],
)
def test_refusals_name_the_place(by, place, message):
    schema = edge({"score": [1.0], "halves": pa.array([1.0], pa.float16())})
    with pytest.raises(ConfigError, match=message) as refused:
        Sort(SortParams(by=by)).output(schema)
    assert refused.value.place == ("by", place)


MOST = 2**62
FINE = {
    "time64": (pa.time64("ns"), [3, 2, 1]),
    "zoned": (pa.timestamp("ns", "UTC"), [3, 2, 1]),
    "far": (pa.timestamp("s", "UTC"), [MOST, 2, 1]),
    "duration": (pa.duration("ns"), [3, 2, 1]),
    "long": (pa.duration("s"), [MOST, MOST - 1, 1]),
    "list": (pa.list_(pa.duration("ns")), [[3], [2], [1]]),
    "struct": (pa.struct({"x": pa.timestamp("s", "UTC")}), [{"x": n} for n in (MOST, 2, 1)]),
}


@pytest.mark.parametrize("kind", FINE)
def test_times_are_compared_as_fine_and_as_far_as_they_are(tmp_path, kind):
    batch = batch_of({"k": pa.array(FINE[kind][1], FINE[kind][0]), "n": [0, 1, 2]})
    made = Sort(SortParams(by=["k"])).gather([batch], tmp_path)
    assert [n for part in made for n in part["n"].to_pylist()] == [2, 1, 0]


@pytest.mark.parametrize(
    "names",
    [("a", "A"), ("__nvisy_row__", "b"), ("__NVISY_ROW__", "__nvisy_row__"), ("key_1", "b")],
)
def test_columns_are_told_apart_as_they_are_written(tmp_path, names):
    batch = batch_of({names[0]: [1, 1, 2, 2], names[1]: [2, 1, 2, 1], "n": [0, 1, 2, 3]})
    assert [row["n"] for row in sort([batch], tmp_path, by=list(names))] == [1, 0, 3, 2]
    assert [row["n"] for row in sort([batch], tmp_path, by=[names[1]])] == [1, 3, 0, 2]


@pytest.mark.parametrize("bytes_", [1 << 12, 1 << 30])
def test_more_words_than_numbers_for_them(tmp_path, monkeypatch, bytes_):
    monkeypatch.setattr(arranging, "BUCKET_BYTES", bytes_)
    batches = []
    for start in range(10):
        words = [*(f"{start} {place}" for place in range(99)), None]
        word = pa.DictionaryArray.from_arrays(pa.array(range(100), pa.int8()), words)
        inner = pa.StructArray.from_arrays([word], ["w"])
        columns = {"n": np.arange(start, 1000, 10)[::-1], "w": word, "in": inner}
        batches.append(batch_of(pa.record_batch(columns | {"__nvisy_rank__": range(100)})))
    made = list(Sort(SortParams(by=["n"])).gather(batches, tmp_path))
    assert all(batch.schema.equals(batches[0].schema) for batch in made)
    rows = [row for batch in made for row in batch.to_pylist()]
    wanted = [row for batch in batches for row in batch.to_pylist()]
    assert rows == sorted(wanted, key=lambda row: row["n"])


def test_few_files_may_be_open(tmp_path, monkeypatch):
    monkeypatch.setattr(arranging, "BUCKET_BYTES", 1)
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    files = sum(1 for _ in Path("/proc/self/fd").iterdir()) + 60
    resource.setrlimit(resource.RLIMIT_NOFILE, (files, before[1]))
    try:
        batch = batch_of({"n": np.random.default_rng(7).permutation(5000)})
        assert [row["n"] for row in sort([batch], tmp_path, by=["n"])] == [*range(5000)]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)


class Damaged:
    def __iter__(self):
        yield batch_of({"n": [1]})
        raise StorageError("a part is gone", remedy="begin anew")


def test_what_fails_in_reading_is_told_as_it_is(tmp_path):
    with pytest.raises(StorageError, match="a part is gone") as refused:
        list(Sort(SortParams(by=["n"])).gather(Damaged(), tmp_path))
    assert refused.value.remedy == "begin anew"


def test_columns_that_only_the_records_tell(tmp_path):
    maps = pa.array([[("a", 1)]], pa.map_(pa.string(), pa.int64()))
    batch = batch_of({"m": maps, "n": [1]})
    for by, message in (("m", "which has no order"), ("N", "there is no column 'N'")):
        with pytest.raises(ConfigError, match=message):
            list(Sort(SortParams(by=[by])).gather([batch], tmp_path))


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EIO])
def test_a_full_disk_is_no_lack_of_memory(tmp_path, monkeypatch, number):
    batches = [batch_of({"t": [f"{n:0100d}" for n in range(150_000)]})] * 6
    if number == errno.EIO:
        (tmp_path / "scratch").touch()
    connect = duckdb.connect

    def little_room(*args, **more):
        connection = connect(*args, **more)
        if number == errno.ENOSPC:
            connection.execute("SET max_temp_directory_size = '1MB'")
        return connection

    monkeypatch.setattr(duckdb, "connect", little_room)
    action = Sort(SortParams.model_construct(by=["t"], memory_limit="64MB"))
    with pytest.raises(OSError, match=r"disk is full: |File exists") as refused:
        list(action.gather(batches, tmp_path / "scratch"))
    assert refused.value.errno == number


def test_names_are_no_sql(tmp_path):
    name = 'a" DESC; DROP TABLE "__nvisy_records__'
    batch = batch_of({name: [2, 1]})
    assert [row[name] for row in sort([batch], tmp_path, by=[name])] == [1, 2]


@pytest.mark.parametrize("limit", ["0MB", "-1GB", "1TB", "all", "255MB", "1GB'; SELECT 1"])
def test_limits_are_read_strictly(limit):
    with pytest.raises(ValidationError):
        SortParams(by=["a"], memory_limit=limit)
