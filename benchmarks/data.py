"""The data of the workloads: made from a seed, so that every machine gets the same bytes.

`python benchmarks/data.py w1 1000000` or `w2 20000`. The first N records do not depend on N.
"""

import json
import os
import random
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from pydoc_data.topics import topics
from typing import Any

WORK = Path(__file__).parent / "work"

LANGUAGES = {"en": 60, "de": 12, "fr": 12, "es": 8, "it": 5, "pl": 3}
DOCUMENT_CHARACTERS = 3830
REPEATED = 0.2
"""Share of W1's texts that have been there before."""
POOL = 100_000


def w1(rows: int) -> Path:
    """JSON lines of about 300 bytes: six in ten English, a score, nested metadata."""
    return _made(WORK / "data" / f"w1_{rows}.jsonl", rows, _w1_records)


def w2(documents: int) -> Path:
    """JSON lines, each a document in Markdown of about 4 KB: headings, lists, paragraphs."""
    return _made(WORK / "data" / f"w2_{documents}.jsonl", documents, _w2_records)


def copies(path: Path, count: int) -> Path:
    """A folder that holds the file so many times over, as links: more data for no disk."""
    folder = path.with_name(f"{path.stem}_times_{count}")
    folder.mkdir(exist_ok=True)
    for number in range(count):
        link = folder / f"{number:03d}.jsonl"
        if not link.exists():
            os.link(path, link)
    return folder


def _w1_records(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    chance = random.Random(11)
    languages = [language for language, share in LANGUAGES.items() for _ in range(share)]
    begin = datetime(2025, 1, 1, tzinfo=UTC)
    pool: list[str] = []
    number = 0
    while True:
        if pool and chance.random() < REPEATED:
            text = pool[chance.randrange(len(pool))]
        else:
            text = f"{_phrase(chance, words, 10, 20).capitalize()} {number}"
            if len(pool) < POOL:
                pool.append(text)
            else:
                pool[chance.randrange(POOL)] = text
        author = {"id": number % 997, "name": words[number * 3 % len(words)]}
        tags = [words[number * step % len(words)] for step in (7, 13)]
        yield {
            "id": number,
            "text": text,
            "lang": chance.choice(languages),
            "score": round(chance.random(), 4),
            "ts": f"{begin + timedelta(seconds=number):%Y-%m-%dT%H:%M:%SZ}",
            "meta": {
                "source": f"https://example.org/p/{number % 5000}",
                "tags": tags,
                "author": author,
            },
        }
        number += 1


def _w2_records(words: Sequence[str]) -> Iterator[dict[str, Any]]:
    chance = random.Random(22)
    number = 0
    while True:
        blocks = [f"# Document {number}: {_phrase(chance, words, 2, 4)}"]
        size = 0
        while size < DOCUMENT_CHARACTERS:
            blocks.append(_block(chance, words))
            size += len(blocks[-1]) + 2
        yield {"id": f"doc-{number:06d}", "text": "\n\n".join(blocks)}
        number += 1


def _block(chance: random.Random, words: Sequence[str]) -> str:
    kind = chance.random()
    if kind < 0.15:
        return f"## {_phrase(chance, words, 2, 5).capitalize()}"
    if kind < 0.27:
        return "\n".join(f"- {_phrase(chance, words, 4, 8)}" for _ in range(4))
    sentences = (_phrase(chance, words, 8, 22).capitalize() for _ in range(chance.randrange(2, 6)))
    return " ".join(f"{sentence}." for sentence in sentences)


def _phrase(chance: random.Random, words: Sequence[str], least: int, most: int) -> str:
    start = chance.randrange(len(words) - most)
    return " ".join(words[start : start + chance.randrange(least, most)])


def _words() -> list[str]:
    """The words of Python's own documentation topics, in their order."""
    text = " ".join(topics[name] for name in sorted(topics))
    return re.findall(r"[A-Za-z][a-z]{1,12}", text)


def _made(
    path: Path, count: int, records: Callable[[Sequence[str]], Iterator[dict[str, Any]]]
) -> Path:
    if path.exists():
        return path
    path.parent.mkdir(parents=True, exist_ok=True)
    unfinished = path.with_suffix(".tmp")
    made = records(_words())
    with unfinished.open("w", encoding="utf-8") as file:
        for _ in range(count):
            file.write(json.dumps(next(made), ensure_ascii=False))
            file.write("\n")
    unfinished.replace(path)
    return path


if __name__ == "__main__":
    print({"w1": w1, "w2": w2}[sys.argv[1]](int(sys.argv[2])))
