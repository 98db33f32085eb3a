"""Files that break parsers: each is refused with a tag and a reason, and harms nothing."""

import json
import os
import re

import document_files as files
import pytest
from document_files import DOCX, PDF
from parser_processes import parsers

from nvisy_dagster.sdk import DataError

pytestmark = pytest.mark.anyio


async def outcome(parser, data, kind, **params):
    """Tag and reason of a refusal, or the document."""
    async with parser(**params) as action:
        try:
            (document,) = (await action.apply(files.blobs([(data, kind)]))).to_pylist()
        except DataError as error:
            return error.tag, error.rows[0]
        return document


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (lambda: os.urandom(5000), PDF),
        (lambda: files.pdf()[:900], PDF),
        (lambda: b"", PDF),
        (files.HTML.encode, PDF),
        (lambda: os.urandom(5000), DOCX),
        (lambda: files.word()[:20_000], DOCX),
        (lambda: files.with_xml(lambda xml: xml[: len(xml) // 2]), DOCX),
        (lambda: files.zipped({"a": b"b"}), DOCX),
    ],
)
async def test_broken_files(parser, make, kind):
    told = await outcome(parser, make(), kind)
    assert told[0] == "format"
    assert re.match(r"the document cannot be read as application/\S+: \S", told[1])


@pytest.mark.parametrize("kind", ["application/x-foo", "image/png", "video/mp4", "text/x-python"])
async def test_types_that_are_not_parsed(parser, kind):
    tag, reason = await outcome(parser, b"print('x')\n", kind)
    assert (tag, reason) == ("format", f"the document is {kind}, which is not parsed")


async def test_a_null_is_no_file(parser):
    tag, reason = await outcome(parser, None, PDF)
    assert (tag, "column 'data' is null" in reason) == ("validation", True)


async def test_a_password_is_asked_for(parser):
    tag, reason = await outcome(parser, files.encrypted("secret"), PDF)
    assert (tag, reason) == (
        "format",
        "the document is encrypted: it can be read with a password only",
    )
    readable = await outcome(parser, files.encrypted(""), PDF)
    assert readable["text"].startswith("# Chapter 1")


ENTITY = b'<!DOCTYPE x [<!ENTITY e SYSTEM "%s">]><w:document '


@pytest.mark.parametrize("scheme", ["file://{path}", "{path}"])
async def test_external_entities_read_no_files(parser, tmp_path, scheme):
    secret = tmp_path / "secret.txt"
    secret.write_text("TOP-SECRET", encoding="utf-8")
    entity = ENTITY % scheme.format(path=secret).encode()
    change = lambda xml: xml.replace(b"<w:document ", entity, 1).replace(b"Second", b"A&e;B")  # noqa: E731
    told = await outcome(parser, files.with_xml(change), DOCX)
    assert "TOP-SECRET" not in json.dumps(told, default=str)
    page = f'<!DOCTYPE x [<!ENTITY e SYSTEM "file://{secret}">]><p>&e;</p><iframe src="{secret}">'
    told = await outcome(parser, page.encode(), "application/xhtml+xml")
    assert "TOP-SECRET" not in json.dumps(told, default=str)


async def test_entities_do_not_multiply(parser):
    pairs = [(f"a{n}", f"&a{n - 1};" * 10) for n in range(1, 10)]
    entities = "".join(f'<!ENTITY {name} "{value}">' for name, value in pairs)
    bomb = f'<!DOCTYPE x [<!ENTITY a0 "lololololololol">{entities}]><w:document '.encode()
    change = lambda xml: xml.replace(b"<w:document ", bomb, 1).replace(b"Second", b"A&a9;B")  # noqa: E731
    told = await outcome(parser, files.with_xml(change), DOCX)
    assert isinstance(told, tuple) or len(told["text"]) < 10_000


async def test_a_zip_bomb_is_too_large(parser):
    bomb = files.with_xml(lambda xml: xml.replace(b"Second", b"x" * (200 << 20)))
    assert len(bomb) < 1 << 20
    tag, reason = await outcome(parser, bomb, DOCX)
    assert (tag, "unpacks to more than it may" in reason) == ("too_large", True)


async def test_a_bomb_of_elements_is_ended_for_its_memory(parser):
    """It unpacks to less than the parser allows, and needs gigabytes."""
    run = b"<w:p><w:r><w:t>hi</w:t></w:r></w:p>"
    bomb = files.with_xml(lambda xml: xml.replace(b"<w:sectPr", run * 2_000_000 + b"<w:sectPr", 1))
    assert len(bomb) < 1 << 20
    tag, reason = await outcome(parser, bomb, DOCX, memory_bytes=400 << 20)
    allowed = f"the document takes more memory than `memory_bytes`, {400 << 20}"
    assert (tag, reason) == ("too_large", allowed)


async def test_more_text_than_allowed_is_too_large(parser):
    data = b"word " * 1000
    assert (await outcome(parser, data, "text/plain", max_text_bytes=5100))["text"]
    tag, reason = await outcome(parser, data, "text/plain", max_text_bytes=4000)
    assert tag == "too_large"
    assert re.search(r"has \d+ bytes of text; `max_text_bytes` allows 4000", reason)


@pytest.mark.parametrize("command", ["!segfault", "!exit"])
async def test_a_crash_is_tried_twice(parser, awkward, command):
    tag, reason = await outcome(parser, command.encode(), "text/plain")
    assert tag == "crash"
    how = {"!segfault": "was ended by SIGSEGV", "!exit": "exited with status 3"}[command]
    assert reason == f"the document crashes the parser: 2 times of 2, the parser {how}"


async def test_a_crash_that_does_not_come_again_is_forgotten(parser, awkward, tmp_path):
    document = await outcome(parser, f"!once {tmp_path / 'seen'}".encode(), "text/plain")
    assert document["text"].startswith("!once")


@pytest.mark.parametrize("command", ["!hang", "!sleep 600"])
async def test_a_hang_is_ended(parser, awkward, command):
    """Also one that never lets Python run again."""
    tag, reason = await outcome(parser, command.encode(), "text/plain", document_seconds=0.5)
    assert (tag, reason) == ("timeout", "the document took longer than `document_seconds`, 0.5 s")


async def test_what_comes_behind_a_hang_gets_its_own_answer(parser, awkward):
    """Not the late one of the document before."""
    async with parser(document_seconds=1) as action:
        with pytest.raises(DataError) as caught:
            await action.apply(files.blobs([(b"!sleep 1.5", "text/plain")]))
        assert caught.value.tag == "timeout"
        made = await action.apply(files.blobs([(b"mine", "text/plain")]))
        assert made["text"].to_pylist() == ["mine"]


@pytest.mark.parametrize("command", ["!memory", "!slow-memory"])
async def test_memory_is_limited(parser, awkward, command):
    tag, _ = await outcome(parser, command.encode(), "text/plain", memory_bytes=300 << 20)
    assert tag == "too_large"


async def test_what_a_parser_prints_is_no_answer(parser, awkward):
    assert (await outcome(parser, b"!chatty", "text/plain"))["text"] == "!chatty"


async def test_a_child_that_lies_about_its_answer_is_ended(parser, awkward):
    tags = set()
    for descriptor in range(3, 9):
        told = await outcome(
            parser, f"!lie {descriptor}".encode(), "text/plain", document_seconds=1
        )
        tags.add(told[0] if isinstance(told, tuple) else "document")
    assert "crash" in tags, "none of the descriptors was that of the answers"
    assert tags <= {"crash", "timeout", "document"}


async def test_a_child_has_no_credentials(parser, awkward, monkeypatch):
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2hunter2")
    document = await outcome(parser, b"!environment", "text/plain")
    assert "hunter2" not in document["text"]
    assert "PYTHONPATH" in document["text"]


async def test_a_child_writes_no_large_files(parser, awkward, tmp_path):
    """Whatever it does then, it is told of that document alone."""
    told = await outcome(parser, f"!write {tmp_path / 'x'}".encode(), "text/plain")
    assert told[0] == "crash"
    assert (tmp_path / "x").stat().st_size <= 16 << 20


async def test_one_bad_file_of_many_harms_no_other(parser, awkward):
    """Those beside it are parsed once; those behind it get a process of their own."""
    kinds = [(f"text {n}".encode(), "text/plain") for n in range(12)]
    kinds[3] = (b"!segfault", "text/plain")
    kinds[5] = (b"!sleep 60", "text/plain")
    kinds[7] = (b"junk", PDF)
    batch = files.blobs(kinds)
    async with parser(workers=2, document_seconds=2) as action:
        refused = {}
        rows = list(range(12))
        while True:
            try:
                made = await action.apply(batch.take(rows))
                break
            except DataError as error:
                refused |= {rows[row]: error.tag for row in error.rows}
                rows = [rows[row] for row in range(len(rows)) if row not in error.rows]
        assert refused == {3: "crash", 5: "timeout", 7: "format"}
        assert [row["text"].strip() for row in made.to_pylist()] == [
            f"text {n}" for n in range(12) if n not in refused
        ]
        assert action._found == {}
        assert len(parsers()) <= 2
