"""The author's guide shows the files that the suites run, word for word."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "extending.md"
BLOCK = re.compile(r"^<!-- file: (\S+) -->\n```python\n(.*?)^```$", re.DOTALL | re.MULTILINE)

blocks = BLOCK.findall(GUIDE.read_text("utf-8"))


@pytest.mark.parametrize(("path", "shown"), blocks, ids=[path for path, _ in blocks])
def test_block_is_the_file(path, shown):
    assert shown == (ROOT / path).read_text("utf-8"), f"{GUIDE.name} is stale: copy {path} into it"


def test_every_file_of_the_package_is_shown():
    package = ROOT / "tests" / "sdk_testing" / "acme_sqlite"
    files = {str(path.relative_to(ROOT)) for path in package.glob("*.py")}
    assert files <= {path for path, _ in blocks}


def test_no_python_block_is_unchecked():
    assert GUIDE.read_text("utf-8").count("```python\n") == len(blocks)
