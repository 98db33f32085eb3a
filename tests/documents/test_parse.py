"""What documents become."""

import json

import anyio
import document_files as files
import pyarrow as pa
import pytest
from anyio.abc import SocketAttribute

from nvisy_connectors.documents.parse import Parse, ParseParams
from nvisy_dagster.sdk import ConfigError, DataError, EdgeType, batch_to_records
from nvisy_dagster.sdk.testing import ActionConformance

pytestmark = pytest.mark.anyio


class TestParse(ActionConformance):
    component = Parse
    primitive = "blob"

    @pytest.fixture
    def params(self):
        return ParseParams(workers=2)

    @pytest.fixture
    def rows(self):
        kinds = [
            (files.word(), files.DOCX),
            (files.pdf(), files.PDF),
            (files.MARKDOWN.encode(), "text/markdown"),
            (b"", "text/plain"),
            (files.HTML.encode(), None),
        ]
        return files.blobs(kinds, tenant=["a", "b", None, "c", "d"])

    @pytest.fixture
    def bad_rows(self, rows):
        junk = files.blobs([(b"junk", files.PDF), (None, None)], tenant=["x", None])
        return pa.concat_batches([rows.slice(0, 3), junk])

    def refused(self, rows):
        texts = rows.drop_columns(["data"]).append_column("data", pa.array(["x"] * rows.num_rows))
        return [
            EdgeType("blob", rows.drop_columns(["data"]).schema),
            EdgeType("row", texts.schema),
        ]


async def parsed(parser, *kinds, **params):
    async with parser(**params) as action:
        batch = await action.apply(files.blobs(kinds))
    batch_to_records(batch, "document")  # they are valid documents
    return batch.to_pylist()


async def refusal(parser, data, kind, **params):
    async with parser(**params) as action:
        with pytest.raises(DataError) as caught:
            await action.apply(files.blobs([(data, kind)]))
    return caught.value.tag, caught.value.rows[0]


def page_texts(document):
    return [document["text"][page["start"] : page["end"]] for page in document["pages"]]


def check_places(document):
    """Every place leads to what it tells of, and the pages are the text."""
    text = document["text"]
    for heading in document["headings"]:
        line = text[heading["start"] :].partition("\n")[0]
        assert line.startswith("#" * heading["level"] + " ")
    for table in document["tables"]:
        assert text[table["start"] : table["end"]].startswith("|")
        assert text[table["start"] : table["end"]].endswith("|")
    if document["pages"]:
        assert "".join(page_texts(document)) == text
        assert [page["number"] for page in document["pages"]] == [
            *range(1, len(document["pages"]) + 1)
        ]


async def test_word(parser):
    (document,) = await parsed(parser, (files.word(), files.DOCX))
    check_places(document)
    assert document["title"] == "Handbook Ünï"
    assert document["mime_type"] == files.DOCX
    assert [(h["level"], h["title"]) for h in document["headings"]] == [
        (1, "Träume und Räume"),
        (2, "Zahlen"),
        (1, "Second"),
    ]
    (table,) = document["tables"]
    assert table["rows"] == [["r0|c0 ä*", "r0|c1 ä*"], ["r1|c0 ä*", "r1|c1 ä*"]]
    assert table["page"] == 1
    first, second = page_texts(document)
    assert first.startswith("# Träume")
    assert second.startswith("# Second")
    assert json.loads(document["_metadata"])["authors"] == ["Ada"]


async def test_pdf(parser):
    (document,) = await parsed(parser, (files.pdf(3), files.PDF))
    check_places(document)
    assert (document["title"], document["language"]) == ("Report of the year", "en")
    assert [h["title"] for h in document["headings"]] == ["Chapter 1", "Chapter 2", "Chapter 3"]
    # The pages but for their headings are alike: they are told apart by their order.
    assert [text.partition("\n")[0] for text in page_texts(document)] == [
        "# Chapter 1",
        "# Chapter 2",
        "# Chapter 3",
    ]
    assert all(text.count("quick brown fox") == 9 for text in page_texts(document))


async def test_slides_are_pages(parser):
    (document,) = await parsed(parser, (files.slides(), files.PPTX))
    check_places(document)
    first, second = page_texts(document)
    assert first.count("Same words") == 2
    assert second.startswith("## Same words")
    (table,) = document["tables"]
    assert (table["page"], table["rows"]) == (2, [["x00", "x01"], ["x10", "x11"]])


async def test_sheets_are_tables_under_headings(parser):
    (document,) = await parsed(parser, (files.sheets(), files.XLSX))
    check_places(document)
    assert [h["title"] for h in document["headings"]] == ["Sales", "Two"]
    assert [t["rows"] for t in document["tables"]] == [
        [["city", "sum"], ["Rome", "12.5"]],
        [["z", "9"]],
    ]
    assert document["pages"] == []


async def test_mail(parser):
    (document,) = await parsed(parser, (files.mail(), "message/rfc822"))
    assert document["title"] == "Quarterly nümbers"
    assert "the numbers are good." in document["text"]
    told = json.loads(document["_metadata"])
    assert told["to_emails"] == ["bob@example.com"]
    assert told["attachments"] == ["a.pdf"]


async def test_html_without_its_head(parser):
    (document,) = await parsed(parser, (files.HTML.encode(), "text/html; charset=utf-8"))
    check_places(document)
    assert document["text"].startswith("# Über uns\n\nWir sind **hier**.")
    assert "alert" not in document["text"]
    assert (document["title"], document["language"]) == ("Titel der Seite", "de")
    assert json.loads(document["_metadata"]) == {"authors": ["Eve"]}
    assert [h["title"] for h in document["headings"]] == ["Über uns", "Zahlen"]
    assert document["tables"][0]["rows"] == [["A", "B"], ["1", "2"]]


@pytest.mark.parametrize(
    ("make", "kind", "begins", "title"),
    [
        (files.MARKDOWN.encode, "text/x-markdown", "# One\n\ntext", "One"),
        (files.rich, "text/rtf", "**Hello** from café.", "my file"),
        (files.book, "application/epub+zip", "# Ch 1\n\nOnce.", "A Tale"),
        (
            files.open_text,
            "application/vnd.oasis.opendocument.text",
            "# Kopf\n\nGuten Tag.",
            "Kopf",
        ),
        (lambda: b"# 1*2 & <b>\r\n| a |", "text/plain", "# 1*2 & <b>\r\n| a |", "my file"),
    ],
)
async def test_other_formats(parser, make, kind, begins, title):
    (document,) = await parsed(parser, (make(), kind))
    check_places(document)
    assert document["text"].startswith(begins)
    assert document["title"] == title


@pytest.mark.parametrize("kind", [None, "application/octet-stream", "application/zip", "image/png"])
async def test_a_type_that_is_not_known_is_looked_for(parser, kind):
    documents = await parsed(parser, (files.pdf(), kind), (files.word(), kind))
    assert [d["mime_type"] for d in documents] == [files.PDF, files.DOCX]


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        ("<p>Straße nach Köln".encode("latin-1"), "text/html; charset=ISO-8859-1"),
        ('<meta charset="iso-8859-1"><p>Straße nach Köln'.encode("latin-1"), "text/html"),
        ("Die Straße nach Köln führt über schöne Brücken.".encode("cp1252"), "text/plain"),
        ("Straße nach Köln".encode("utf-16"), "text/plain"),
        ("\ufeffStraße nach Köln".encode(), "text/markdown"),
    ],
)
async def test_texts_in_other_encodings(parser, data, kind):
    (document,) = await parsed(parser, (data, kind))
    assert "Straße nach Köln" in document["text"]
    assert "\ufeff" not in document["text"]


async def test_a_wrong_encoding_is_told(parser):
    tag, reason = await refusal(parser, b"\xff\xfe\x00", "text/plain")
    assert tag == "encoding"
    tag, reason = await refusal(parser, b"<p>\xff", "text/html; charset=nonsense")
    assert (tag, "'nonsense'" in reason) == ("encoding", True)


async def test_columns_and_metadata_of_files_stay(parser):
    batch = files.blobs(
        [(files.word(), files.DOCX), (b"x", "text/plain"), (b"x", "text/plain")],
        title=["from the table", None, "from the table"],
        tenant=[1, 2, 3],
    )
    told = pa.array(['{"authors": ["us"], "n": 1}', "not json", None])
    place = batch.schema.get_field_index("_metadata")
    batch = batch.set_column(place, batch.schema.field(place), told)
    async with parser() as action:
        made = await action.apply(batch)
        assert action.output(EdgeType("blob", batch.schema)).schema == made.schema
    first, second, third = made.to_pylist()
    assert [row["tenant"] for row in (first, second, third)] == [1, 2, 3]
    assert "data" not in first
    assert [first["title"], second["title"], third["title"]] == [
        "Handbook Ünï",
        "my file",
        "from the table",
    ]
    metadata = json.loads(first["_metadata"])
    assert (metadata["authors"], metadata["n"], metadata["created_by"]) == (["us"], 1, "Ada")
    assert (second["_metadata"], third["_metadata"]) == ("not json", None)
    assert first["_parent_ids"] == [batch["_id"][0].as_py()]


async def test_a_page_without_text_is_empty(parser):
    """What is scanned is no text."""
    (document,) = await parsed(parser, (files.empty_pdf(), files.PDF))
    assert document["text"].strip() == ""


async def test_the_language_is_guessed_unless_told_not_to(parser):
    text = ("Das ist ein langer deutscher Text über die Arbeit im Büro. " * 3).encode()
    (guessed,) = await parsed(parser, (text, "text/plain"))
    (not_guessed,) = await parsed(parser, (text, "text/plain"), detect_language=False)
    assert (guessed["language"], not_guessed["language"]) == ("de", None)


async def test_ocr_without_its_data_is_refused_when_the_graph_compiles(
    parser, monkeypatch, tmp_path
):
    monkeypatch.setenv("TESSDATA_PREFIX", str(tmp_path))
    with pytest.raises(ConfigError, match="Tesseract's data for 'deu'") as caught:
        parser(ocr=True, ocr_language="deu").output(EdgeType("blob"))
    assert caught.value.tag == "install"
    parser(ocr=False).output(EdgeType("blob"))


async def test_an_image_needs_ocr(parser):
    tag, reason = await refusal(parser, b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR", "image/png")
    assert tag == "format"
    assert '"ocr": true' in reason


@pytest.mark.parametrize("kind", ["image/png", files.PDF])
async def test_scans_are_read_with_ocr(parser, kind):
    (document,) = await parsed(parser, (files.scan(kind), kind), ocr=True)
    assert "Hello scanned world" in document["text"]


async def test_what_a_document_refers_to_is_not_fetched(parser):
    asked = []

    async def serve(stream):
        asked.append(await stream.receive())

    listener = await anyio.create_tcp_listener(local_host="127.0.0.1", local_port=0)
    async with listener, anyio.create_task_group() as tasks:
        tasks.start_soon(listener.serve, serve)
        url = f"http://127.0.0.1:{listener.extra(SocketAttribute.local_port)}/x"
        page = (
            f'<!DOCTYPE html SYSTEM "{url}.dtd"><link rel="stylesheet" href="{url}.css">'
            f'<img src="{url}.png"><iframe src="{url}"></iframe><p>text</p>'
        )
        template = (
            '<Relationship Id="r9" TargetMode="External" Type="http://schemas.openxmlformats.org/'
            f'officeDocument/2006/relationships/attachedTemplate" Target="{url}"/></Relationships>'
        )
        linked = files.with_xml(
            lambda xml: xml.replace(b"</Relationships>", template.encode()),
            "word/_rels/document.xml.rels",
        )
        found = await parsed(
            parser,
            (page.encode(), "text/html"),
            (f"![x]({url}.png)\n\n```python\nx = 1\n```".encode(), "text/markdown"),
            (linked, files.DOCX),
        )
        tasks.cancel_scope.cancel()
    assert len(found) == 3
    assert asked == []
