"""Compressed objects: read as what they hold, whatever reading stops at, and written whole."""

import bz2
import gzip
import json
import resource
from contextlib import suppress

import duckdb
import pytest
from backports import zstd
from bad_lines import places_of, rejected_in, rows_of
from bad_lines import source as lenient
from object_records import drain, rows
from pydantic import ValidationError

from nvisy_connectors.object.formats.compression import (
    BrokenStreamError,
    CompressedFile,
    StreamDecoder,
)
from nvisy_connectors.object.local import (
    LocalSink,
    LocalSinkParams,
    LocalSourceParams,
)
from nvisy_dagster.sdk import DataError, Progress

pytestmark = pytest.mark.anyio

CODECS = {"gz": gzip, "zst": zstd, "bz2": bz2}
TOTAL = 20_000


def source(path, **params):
    return lenient(path, params.pop("format", "jsonl"), **params)


def line(number):
    return json.dumps({"n": number, "text": f"line {number} " + "ü" * (number % 50)}).encode()


def content(count=TOTAL):
    return b"".join(line(n) + b"\n" for n in range(count))


def numbers(batches):
    return [row["n"] for row in rows_of(batches)]


@pytest.mark.parametrize("codec", CODECS)
async def test_it_is_read_as_what_it_holds_and_resumed_anywhere(tmp_path, codec):
    plain, packed = tmp_path / "plain.jsonl", tmp_path / f"x.jsonl.{codec}"
    plain.write_bytes(content())
    packed.write_bytes(CODECS[codec].compress(content()))
    params = {"batch_bytes": 100_000, "columns": {"n": "int64", "text": "string"}}
    expected = await drain(source(plain, **params))
    found = await drain(source(packed, **params))
    assert rows_of(found) == rows_of(expected)
    assert [place for _, place in places_of(found)] == [place for _, place in places_of(expected)]
    assert {uri for uri, _ in places_of(found)} == {packed.as_uri()}
    assert len(found) > 5
    for place in (0, len(found) // 2, len(found) - 1):
        rest = await drain(source(packed, **params), found[place].cursor)
        assert rows_of(rest) == rows_of(found[place + 1 :])


@pytest.mark.parametrize("codec", CODECS)
async def test_several_streams_one_after_the_other(tmp_path, codec):
    """As `cat a.gz b.gz` makes, also with lines across their borders."""
    whole, cut = content(3000), 12_345
    packed = CODECS[codec].compress(whole[:cut]) + CODECS[codec].compress(whole[cut:])
    (tmp_path / f"x.jsonl.{codec}").write_bytes(packed)
    assert numbers(await drain(source(tmp_path))) == list(range(3000))


@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("share", [0.5, 0.999])
async def test_what_comes_before_a_broken_place_is_read(tmp_path, codec, share):
    packed = CODECS[codec].compress(content())
    path = tmp_path / f"x.jsonl.{codec}"
    path.write_bytes(packed[: int(len(packed) * share)])
    batches = await drain(source(path, batch_bytes=50_000))
    found = numbers(batches)
    assert found == list(range(len(found)))
    # zstd decodes blocks of 128 kB, bz2 of 900.
    assert len(found) >= TOTAL * (share - 0.15) * (codec != "bz2")
    [torn] = rejected_in(batches)
    assert torn.position == len(found) + 1
    assert "data cannot be decoded after byte" in torn.reason
    assert "it ends too early" in torn.reason
    assert (torn.tag, torn.uri) == ("format", path.as_uri())
    loud = source(path)
    loud.bad_records = "fail"
    with pytest.raises(DataError, match="it ends too early"):
        await drain(loud)


@pytest.mark.parametrize("codec", CODECS)
async def test_damaged_bytes_are_no_records(tmp_path, codec):
    packed = bytearray(CODECS[codec].compress(content()))
    packed[len(packed) // 2 : len(packed) // 2 + 20] = b"\xff" * 20
    (tmp_path / f"x.jsonl.{codec}").write_bytes(packed)
    (tmp_path / f"y.jsonl.{codec}").write_bytes(CODECS[codec].compress(line(-1) + b"\n"))
    batches = await drain(source(tmp_path))
    good = [n for n in numbers(batches) if n != -1]
    # A checksum may come behind some of what it is of.
    assert good[:10] == list(range(len(good)))[:10]
    assert numbers(batches)[-1] == -1, "the next object is read all the same"
    assert any("cannot be decoded" in one.reason for one in rejected_in(batches))


async def test_a_bomb_stops_at_its_cap(tmp_path):
    """1 GB of 1 MB; and memory is that of a batch."""
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b" " * (1 << 20) + b'{"n": 2}\n') * 1024)
    assert path.stat().st_size < 2 << 20
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    batches = await drain(source(path))
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 250 << 10, f"{grown >> 10} MB"
    found = numbers(batches)
    assert 60 < len(found) < 220, "about 100 times its size"
    [torn] = rejected_in(batches)
    assert "holds more than" in torn.reason
    assert torn.tag == "too_large"


async def test_a_limit_counts_what_it_holds(tmp_path):
    data = content(1000)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(data))
    whole = await drain(source(tmp_path, max_decoded_bytes=len(data)))
    assert len(numbers(whole)) == 1000
    assert not rejected_in(whole)
    less = await drain(source(tmp_path, max_decoded_bytes=len(data) - 1))
    assert numbers(less) == list(range(999))
    [torn] = rejected_in(less)
    assert f"holds more than {len(data) - 1} bytes" in torn.reason


@pytest.mark.parametrize("codec", CODECS)
async def test_csv_and_text(tmp_path, codec):
    table = "a;b\n" + "".join(f"{n};x{n}\n" for n in range(500))
    (tmp_path / f"t.csv.{codec}").write_bytes(CODECS[codec].compress(table.encode()))
    (tmp_path / f"n.md.{codec}").write_bytes(CODECS[codec].compress("Größe".encode()))
    found = rows_of(await drain(source(tmp_path, format="csv", glob="*.csv.*")))
    assert found == [{"a": n, "b": f"x{n}"} for n in range(500)]
    [note] = rows_of(await drain(source(tmp_path, format="text", glob="*.md.*")))
    assert (note["text"], note["title"], note["mime_type"]) == ("Größe", "n", "text/markdown")


async def test_text_that_holds_too_much_or_is_broken(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 1000))
    (tmp_path / "b.txt.gz").write_bytes(gzip.compress(b"b" * 1000)[:-4])
    (tmp_path / "c.txt").write_bytes(b"c")
    (tmp_path / "d.txt.gz").write_bytes(b"")
    batches = await drain(source(tmp_path, format="text", max_object_bytes=999))
    assert [row["text"] for row in rows_of(batches)] == ["c", ""]
    reasons = {one.uri.rpartition("/")[2]: (one.reason, one.tag) for one in rejected_in(batches)}
    assert reasons.keys() == {"a.txt.gz", "b.txt.gz"}
    assert "holds more than 999 bytes" in reasons["a.txt.gz"][0]
    assert reasons["b.txt.gz"][1] == "too_large"  # it does before its end
    batches = await drain(source(tmp_path, format="text"))
    [torn] = rejected_in(batches)
    assert "ends too early" in torn.reason


async def test_what_is_said_goes_before_the_name(tmp_path):
    (tmp_path / "x.jsonl").write_bytes(gzip.compress(content(10)))
    assert len(numbers(await drain(source(tmp_path, compression="gzip")))) == 10
    (tmp_path / "x.jsonl").rename(tmp_path / "x.jsonl.gz")
    batches = await drain(source(tmp_path, compression="none"))
    assert not numbers(batches)
    assert rejected_in(batches)


@pytest.mark.parametrize("codec", ["gzip", "zstd", "bz2"])
def test_no_bit_of_what_is_written_can_change_what_is_read(tmp_path, codec):
    path = tmp_path / "x"
    file = CompressedFile(path, codec)
    file.write(content(300))
    file.close()
    packed = path.read_bytes()
    unheeded = range(4, 10) if codec == "gzip" else ()  # time and system
    for place in {*range(0, len(packed), 37), *range(16), len(packed) - 1} - {*unheeded}:
        damaged = bytearray(packed)
        damaged[place] ^= 4
        decoder, found = StreamDecoder(codec), []
        with suppress(BrokenStreamError):
            found += decoder.feed(bytes(damaged))
            decoder.finish()
            assert b"".join(found) == content(300), place


@pytest.mark.parametrize(("codec", "name"), [("gz", "gzip"), ("zst", "zstd"), ("bz2", "bz2")])
@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_what_is_written_is_read_by_others(tmp_path, codec, name, form):
    contents = []
    for folder in ("one", "two"):
        params = LocalSinkParams(
            path=str(tmp_path / folder), format=form, compression=name, csv=None, part_bytes=20_000
        )
        sink = LocalSink(params)
        async with sink:
            await sink.start(Progress("run", 0))
            for start in range(0, 20_000, 5000):
                batch = rows(5000, start=start)
                nested = batch.schema.get_field_index("tags")
                await sink.write(batch if form == "jsonl" else batch.remove_column(nested))
            await sink.commit(1)
            await sink.finish()
        files = sorted((tmp_path / folder).iterdir())
        assert {file.name.partition(".")[2] for file in files} == {f"{form}.{codec}"}
        assert len(files) > 1 or codec == "bz2"
        contents.append(b"".join(CODECS[codec].decompress(file.read_bytes()) for file in files))
        assert [file.read_bytes() for file in files] == [
            (tmp_path / "one" / file.name).read_bytes() for file in files
        ]
    assert contents[0] == contents[1]
    back = rows_of(await drain(source(tmp_path / "one", format=form)))
    assert [row["text"] for row in back] == rows(20_000).column("text").to_pylist()
    if codec != "bz2":  # DuckDB reads the others
        read = "read_csv" if form == "csv" else "read_json"
        query = f"SELECT count(*), sum(score) FROM {read}('{tmp_path}/one/*')"
        assert duckdb.sql(query).fetchall() == [(20_000, sum(i / 4 for i in range(20_000)))]


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"format": "binary", "compression": "gzip"}, "does not go with format 'binary'"),
        ({"format": "binary", "max_decoded_bytes": 5}, "does not go with format 'binary'"),
        ({"format": "jsonl", "compression": "rar"}, "Input should be"),
    ],
)
def test_what_does_not_go_together_is_refused(tmp_path, params, message):
    with pytest.raises(ValidationError, match=message):
        LocalSourceParams(path=str(tmp_path), **params)
    with pytest.raises(ValidationError, match="does not go with format 'text'"):
        LocalSinkParams(path=str(tmp_path), format="text", compression="gzip")


@pytest.mark.parametrize("form", ["jsonl", "csv"])
async def test_a_place_in_a_plain_object_is_none_in_a_compressed_one(tmp_path, form):
    def lines(first):
        made = (f'{{"n": {n}}}' if form == "jsonl" else f"{n}" for n in range(first, first + 5000))
        return ("\n".join([*(["n"] if form == "csv" else []), *made]) + "\n").encode()

    (tmp_path / f"a.{form}").write_bytes(lines(0))
    (tmp_path / f"b.{form}.gz").write_bytes(gzip.compress(lines(5000)))
    (tmp_path / f"c.{form}").write_bytes(lines(10_000))
    params = {"format": form, "batch_bytes": 9000}
    batches = await drain(source(tmp_path, **params))
    assert [row["n"] for row in rows_of(batches)] == list(range(15_000))
    for place in range(0, len(batches), 2):
        rest = await drain(source(tmp_path, **params), batches[place].cursor)
        assert rows_of(rest) == rows_of(batches[place + 1 :])
        assert places_of(rest) == places_of(batches[place + 1 :])


async def test_objects_all_of_which_are_bad(tmp_path):
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"a" * 1000)[:-4])
    (tmp_path / "b.txt").write_bytes(b"\xff\xfe\xff")
    batches = await drain(source(tmp_path, format="text"))
    assert not rows_of(batches)
    assert len(rejected_in(batches)) == 2
