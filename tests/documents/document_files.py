"""Documents as other programs write them, and files that break parsers."""

import email.message
import io
import zipfile
from collections.abc import Callable, Sequence

import docx
import numpy as np
import openpyxl
import pyarrow as pa
from fpdf import FPDF
from PIL import Image, ImageDraw
from pptx import Presentation
from pypdf import PdfWriter

from nvisy_dagster.sdk.envelope import with_envelope
from nvisy_dagster.sdk.identity import root_ids

OFFICE = "application/vnd.openxmlformats-officedocument"
DOCX = f"{OFFICE}.wordprocessingml.document"
PPTX = f"{OFFICE}.presentationml.presentation"
XLSX = f"{OFFICE}.spreadsheetml.sheet"
PDF = "application/pdf"

PROSE = "The quick brown fox jumps over the lazy dog and the children of the town. "

HTML = """<!doctype html><html lang="de"><head><title>Titel der Seite</title>
<meta name="author" content="Eve"><script>alert(1)</script></head><body><nav>Menu</nav>
<h1>Über uns</h1><p>Wir sind <b>hier</b>.</p><h2>Zahlen</h2>
<table><tr><th>A</th><th>B</th></tr><tr><td>1</td><td>2</td></tr></table>
<pre><code># not a heading</code></pre></body></html>"""

MARKDOWN = "# One\n\ntext\n\n```\n# no heading\n```\n\n## Two\n\n| a | b |\n|---|---|\n| 1 | 2 |\n"


def word(text: str = PROSE) -> bytes:
    document = docx.Document()
    document.core_properties.title = "Handbook Ünï"
    document.core_properties.author = "Ada"
    document.add_heading("Träume und Räume", 1)
    document.add_paragraph(text)
    document.add_heading("Zahlen", 2)
    table = document.add_table(2, 2)
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        table.cell(row, column).text = f"r{row}|c{column} ä*"
    document.add_page_break()
    document.add_heading("Second", 1)
    document.add_paragraph("After the table.")
    return saved(document.save)


def pdf(pages: int = 2, title: str = "Report of the year") -> bytes:
    file = FPDF()
    file.set_title(title)
    file.set_author("Grace")
    for page in range(1, pages + 1):
        file.add_page()
        file.set_font("Helvetica", "B", 24)
        file.cell(0, 14, f"Chapter {page}", new_x="LMARGIN", new_y="NEXT")
        file.set_font("Helvetica", size=11)
        for _ in range(3):
            file.multi_cell(0, 6, PROSE * 3)
            file.ln(3)
    return bytes(file.output())


def empty_pdf() -> bytes:
    file = FPDF()
    file.add_page()
    return bytes(file.output())


def scan(kind: str) -> bytes:
    image = Image.new("RGB", (1200, 300), "white")
    ImageDraw.Draw(image).text((40, 80), "Hello scanned world", fill="black", font_size=80)
    picture = saved(lambda target: image.save(target, "PNG"))
    if kind != PDF:
        return picture
    file = FPDF()
    file.add_page()
    file.image(io.BytesIO(picture), w=150)
    return bytes(file.output())


def slides() -> bytes:
    file = Presentation()
    first = file.slides.add_slide(file.slide_layouts[1])
    first.shapes.title.text = "Same words"
    first.placeholders[1].text = "Same words"
    second = file.slides.add_slide(file.slide_layouts[5])
    second.shapes.title.text = "Same words"
    table = second.shapes.add_table(2, 2, 0, 2_000_000, 5_000_000, 1_000_000).table
    for row, column in ((0, 0), (0, 1), (1, 0), (1, 1)):
        table.cell(row, column).text = f"x{row}{column}"
    return saved(file.save)


def sheets() -> bytes:
    book = openpyxl.Workbook()
    book.active.title = "Sales"
    book.active.append(["city", "sum"])
    book.active.append(["Rome", 12.5])
    book.create_sheet("Two").append(["z", 9])
    return saved(book.save)


def mail() -> bytes:
    message = email.message.EmailMessage()
    message["Subject"] = "Quarterly nümbers"
    message["From"] = "Ann <ann@example.com>"
    message["To"] = "bob@example.com"
    message["Date"] = "Mon, 02 Nov 2026 10:00:00 +0000"
    message.set_content("Dear Bob,\n\nthe numbers are good.\n")
    message.add_alternative("<h1>Hi</h1><p>the numbers are <b>good</b>.</p>", subtype="html")
    message.add_attachment(b"no pdf", maintype="application", subtype="pdf", filename="a.pdf")
    return message.as_bytes()


def rich() -> bytes:
    return rb"{\rtf1\ansi\ansicpg1252 {\b Hello} from caf\'e9.\par Second line.\par}"


def book() -> bytes:
    chapter = (
        "<html xmlns='http://www.w3.org/1999/xhtml'><body><h1>Ch 1</h1><p>Once.</p></body></html>"
    )
    container = (
        '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container" version="1.0">'
        '<rootfiles><rootfile full-path="c.opf" media-type="application/oebps-package+xml"/>'
        "</rootfiles></container>"
    )
    package = (
        '<package xmlns="http://www.idpf.org/2007/opf" version="3.0"><metadata '
        'xmlns:dc="http://purl.org/dc/elements/1.1/"><dc:title>A Tale</dc:title></metadata>'
        '<manifest><item id="a" href="a.xhtml" media-type="application/xhtml+xml"/></manifest>'
        '<spine><itemref idref="a"/></spine></package>'
    )
    return zipped({
        "mimetype": b"application/epub+zip",
        "META-INF/container.xml": container.encode(),
        "c.opf": package.encode(),
        "a.xhtml": chapter.encode(),
    })


def open_text() -> bytes:
    content = (
        '<office:document-content xmlns:office="urn:oasis:names:tc:opendocument:xmlns:office:1.0" '
        'xmlns:text="urn:oasis:names:tc:opendocument:xmlns:text:1.0" office:version="1.2">'
        '<office:body><office:text><text:h text:outline-level="1">Kopf</text:h>'
        "<text:p>Guten Tag.</text:p></office:text></office:body></office:document-content>"
    )
    return zipped({
        "mimetype": b"application/vnd.oasis.opendocument.text",
        "content.xml": content.encode(),
    })


def encrypted(password: str) -> bytes:
    writer = PdfWriter(clone_from=io.BytesIO(pdf()))
    writer.encrypt(password, "owner", algorithm="AES-256")
    return saved(writer.write)


def with_xml(change: Callable[[bytes], bytes], name: str = "word/document.xml") -> bytes:
    """A Word file of which one part was changed."""
    with zipfile.ZipFile(io.BytesIO(word())) as archive:
        parts = {entry: archive.read(entry) for entry in archive.namelist()}
    parts[name] = change(parts[name])
    return zipped(parts)


def zipped(parts: dict[str, bytes]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name, data)
    return file.getvalue()


def saved(save: Callable[[io.BytesIO], object]) -> bytes:
    file = io.BytesIO()
    save(file)
    return file.getvalue()


def blobs(files: Sequence[tuple[bytes | None, str | None]], **columns: object) -> pa.RecordBatch:
    """Files with media types, as a source would emit them."""
    payload = pa.record_batch({
        "data": pa.array([data for data, _ in files], pa.large_binary()),
        "mime_type": pa.array([kind for _, kind in files], pa.string()),
        "size": pa.array([len(data or b"") for data, _ in files], pa.int64()),
        **columns,
    })
    positions = np.arange(len(files))
    uri = "file:///in/my%20file.x"
    return with_envelope(
        payload, ids=root_ids(uri, positions), uri=uri, positions=np.zeros(len(files), np.int64)
    )
