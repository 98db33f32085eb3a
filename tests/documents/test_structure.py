"""Headings, tables and pages of Markdown texts."""

import time

import document_files as files
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from nvisy_connectors.documents.extract import Settings, extract
from nvisy_connectors.documents.languages import language_tag
from nvisy_connectors.documents.markup import structure
from nvisy_connectors.documents.pages import find_starts, ranges, without_markers

SETTINGS = Settings(max_text_bytes=1 << 20, detect_language=False, ocr=False, ocr_language="eng")


def oracle(text):
    """Level and place of headings, and cells of tables, by a Markdown parser."""
    lines = [0]
    for line in text.split("\n"):
        lines.append(lines[-1] + len(line) + 1)
    headings, tables = [], []
    tokens = MarkdownIt("commonmark").enable("table").parse(text)
    for place, token in enumerate(tokens):
        if token.type == "heading_open" and token.level == 0:
            plain = "".join(
                child.content for child in tokens[place + 1].children if child.type != "softbreak"
            )
            headings.append((int(token.tag[1]), plain, lines[token.map[0]]))
        elif token.type == "table_open" and token.level == 0:
            tables.append([])
        elif token.type == "tr_open":
            tables[-1].append([])
        elif token.type == "inline" and tokens[place - 1].type in {"td_open", "th_open"}:
            tables[-1][-1].append("".join(child.content for child in token.children))
    return headings, tables


def found(text):
    headings, tables = structure(text)
    return (
        [(each["level"], each["title"], each["start"]) for each in headings],
        [each["rows"] for each in tables],
    )


WRITTEN = """# One *two* `three`

```python
# no heading
| no | table |
| --- | --- |
```

~~~~
```
## neither
~~~~

- a list

  with a paragraph

### Three \\# \\*stars\\*

| a | b \\| c |
| --- | :-: |
| 1 | **2** |
|  | x\\_y |

#hashtag

####### seven

| no table, for want of a second line |

## Last"""


@pytest.mark.parametrize("text", [WRITTEN, "", "#", "# ", "| a |\n| --- |", "```\n# open"])
def test_what_a_markdown_parser_finds(text):
    assert found(text) == oracle(text)


@pytest.mark.parametrize(
    ("make", "kind"),
    [
        (files.word, files.DOCX),
        (files.pdf, files.PDF),
        (files.slides, files.PPTX),
        (files.sheets, files.XLSX),
        (files.HTML.encode, "text/html"),
        (files.MARKDOWN.encode, "text/markdown"),
        (WRITTEN.encode, "text/markdown"),
        (b"Setext\n======\n\n1. # in a list\n\n> ## in a quote\n\nTwo\n---".strip, "text/markdown"),
    ],
)
def test_the_parsers_markdown_is_read_as_a_markdown_parser_reads_it(make, kind):
    text = extract(make(), kind, SETTINGS)["text"]
    assert found(text) == oracle(text)


HOSTILE = [
    "`" * 200_000,
    "```\n" * 50_000,
    "|" * 200_000,
    "| a |\n" * 50_000,
    "\n" * 500_000,
    "# " + " " * 200_000 + "x",
    "# " + "*a" * 100_000,
    "| " + "*a" * 100_000 + " |\n| --- |",
    "|" + ":- " * 100_000 + "\n" + "|" + " :-" * 100_000,
    "a" * 500_000,
]


@pytest.mark.parametrize("text", HOSTILE, ids=range(len(HOSTILE)))
def test_no_text_takes_long(text):
    started = time.process_time()
    structure(text)
    without_markers(text, "marker")
    find_starts(text, [(1, text), (2, text[:1000]), (3, text)])
    assert time.process_time() - started < 8


words = st.lists(
    st.sampled_from(["alpha", "beta", "same", "x_y", "ß", "7"]), min_size=1, max_size=8
)


@given(st.lists(words, min_size=1, max_size=6))
def test_pages_are_found_by_their_blocks(paged):
    """Though pages repeat each other, and line breaks and markup differ."""
    blocks = [(number, "\n".join(page)) for number, page in enumerate(paged, 1)]
    texts = ["## " + " **and** ".join(page).replace("**and** ", "") for page in paged]
    text = "\n\n".join(texts)
    pages = ranges(find_starts(text, blocks), len(paged), len(text))
    assert [text[p["start"] : p["end"]].strip() for p in pages] == texts


def test_what_is_on_no_page_leaves_an_empty_page():
    text = "first\n\nthird"
    starts = find_starts(text, [(1, "first"), (2, "removed from the text"), (3, "third")])
    assert [(p["start"], p["end"]) for p in ranges(starts, 4, len(text))] == [
        (0, 7),
        (7, 7),
        (7, 12),
        (12, 12),
    ]


def test_without_pages_there_are_none():
    assert ranges({}, 0, 10) == []
    assert ranges({}, 5, 10) == []


def test_markers_are_taken_out():
    text = "\n\nM1M\n\n# a\n\nM2M\n\nM3M\n\nc\n"
    plain, starts = without_markers(text, "M")
    assert plain == "# a\n\nc\n"
    assert {n: plain[start:] for n, start in starts.items()} == {
        1: "# a\n\nc\n",
        2: "c\n",
        3: "c\n",
    }


def test_a_document_cannot_forge_a_page():
    marker = "nvisy" + "0" * 16
    text = f"{marker}7{marker}\n\nx"
    assert extract(text.encode(), "text/markdown", SETTINGS)["pages"] == []


@pytest.mark.parametrize(
    ("name", "tag"),
    [
        ("eng", "en"),
        ("cmn", "zh"),
        ("de_DE", "de-DE"),
        ("EN-us", "en-us"),
        ("lzh", "lzh"),
        ("", None),
        ("x" * 50, None),
        (None, None),
        ("klingon!", None),
        ("en\nfoo", None),
    ],
)
def test_names_of_languages(name, tag):
    assert language_tag(name) == tag
