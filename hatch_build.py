"""Compiles what is written in C when the package is built or installed from its sources."""

import os
import shlex
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface

_SOURCE = Path("nvisy_connectors/object/formats/jsonl_rows.c")
_LIBRARY = _SOURCE.with_name("_jsonl_rows.so")
_FLAGS = ["-std=c11", "-O2", "-fPIC", "-shared"]


class CompileHook(BuildHookInterface[Any]):
    """Makes a shared library beside its source; a wheel then fits one platform only.

    Uses `$CC`, the compiler of the system, or one from the package index where there is none. A
    package without the library works too, only slower where JSON lines are read: so a compiler
    that fails is told, and the build goes on.
    """

    PLUGIN_NAME = "custom"

    def dependencies(self) -> list[str]:
        """What the build needs besides: a compiler, if there is none."""
        return [] if _compiler_of_the_system() else ["ziglang>=0.14"]

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:  # noqa: ARG002 - hatch's
        """Compile."""
        if self.target_name != "wheel":
            return
        library = Path(self.root, _LIBRARY)
        command = [*_compiler(), *_FLAGS, "-o", f"{library}.new", str(Path(self.root, _SOURCE))]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603
        except (OSError, subprocess.CalledProcessError) as error:
            told = getattr(error, "stderr", None) or str(error)
            self.app.display_warning(f"not compiled, goes on without: {told.strip()}")
            return
        # A process that has loaded the old one keeps it.
        Path(f"{library}.new").replace(library)
        build_data["artifacts"].append(f"/{_LIBRARY.as_posix()}")
        build_data["pure_python"] = False
        build_data["tag"] = (
            f"py3-none-{sysconfig.get_platform().replace('-', '_').replace('.', '_')}"
        )


def _compiler_of_the_system() -> list[str]:
    if named := os.environ.get("CC"):
        return shlex.split(named)
    return next(([found] for name in ("cc", "gcc", "clang") if (found := shutil.which(name))), [])


def _compiler() -> list[str]:
    # It would make code for this processor only, and a package may be built elsewhere.
    return _compiler_of_the_system() or [sys.executable, "-m", "ziglang", "cc", "-mcpu=baseline"]
