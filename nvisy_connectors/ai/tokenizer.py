"""Tokenizers that need no network: the one that wordllama ships, or a `tokenizer.json` file."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

from nvisy_dagster.sdk import ConfigError

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WORDLLAMA = "wordllama"


@cache
def load_tokenizer(name: str) -> "Tokenizer":
    """The tokenizer of that name, loaded once per process; reads a file.

    It neither truncates nor pads, whatever its file says: a chunk must not lose its end.

    Args:
        name: `wordllama`, or the path of a `tokenizer.json`.

    Raises:
        ConfigError: There is no such tokenizer.
    """
    from tokenizers import Tokenizer

    path = wordllama_file("tokenizers/l2_supercat_tokenizer_config.json")
    if name != WORDLLAMA:
        path = Path(name).expanduser()
    if not path.is_file():
        raise ConfigError(
            f"tokenizer {name!r} is neither {WORDLLAMA!r} nor the path of a tokenizer.json",
            remedy="check the path; tokenizers are never downloaded",
        )
    try:
        tokenizer = Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise ConfigError(f"{path} is not a tokenizer.json: {error}") from error
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def wordllama_file(name: str) -> Path:
    """Path of a file that the wordllama distribution ships.

    The package is located and never imported: importing it configures the root logger.

    Raises:
        ConfigError: wordllama is not installed.
    """
    spec = find_spec("wordllama")
    if spec is None or not spec.submodule_search_locations:
        raise ConfigError(
            "wordllama is not installed", remedy="pip install 'nvisy-dagster[ai]'", tag="install"
        )
    return Path(next(iter(spec.submodule_search_locations))) / name
