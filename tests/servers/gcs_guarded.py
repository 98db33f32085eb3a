"""Google's emulator in a process of its own, which lets in who has a service account's key.

Apart from the tests, so that its connections are not taken for those of what is tested. Runs until
its input ends; then it takes the emulator down.
"""

import base64
import json
import os
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

HERE = Path(__file__)
PUBLIC = "public"
"""A bucket that anybody may read."""


def new_key() -> Any:
    """The private key of a service account."""
    from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key

    return generate_private_key(65537, 2048)


def service_account(key: Any) -> str:
    """The JSON of a service account's key."""
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    text = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()
    return json.dumps({
        "type": "service_account",
        "private_key": text,
        "private_key_id": "of-the-tests",
        "client_email": "tests@tests.iam.gserviceaccount.com",
    })


@contextmanager
def guarded_gcs(folder: Path, bucket: str, account: str) -> Generator[str]:
    """Run it, until the block is left; gives its address.

    Raises:
        FileNotFoundError: The emulator is not installed.
    """
    (folder / "account.json").write_text(account)
    with subprocess.Popen(
        [sys.executable, str(HERE), str(folder), bucket],
        env={**os.environ, "PYTHONPATH": str(HERE.parents[1])},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        said = process.stdout.readline().strip()
        if not said.startswith("http"):
            process.wait()
            raise FileNotFoundError(said)
        try:
            yield said
        finally:
            process.stdin.close()


def is_signed(token: str, key: Any) -> bool:
    """Whether a token was signed with the private key of a public one."""
    from cryptography.exceptions import InvalidSignature
    from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
    from cryptography.hazmat.primitives.hashes import SHA256

    message, _, signature = token.rpartition(".")
    try:
        raw = base64.urlsafe_b64decode(signature + "==")
        key.verify(raw, message.encode(), PKCS1v15(), SHA256())
    except (InvalidSignature, ValueError):
        return False
    return True


def main(folder: Path, bucket: str) -> None:
    from cryptography.hazmat.primitives.serialization import load_pem_private_key
    from servers.gcs import gcs

    account = json.loads((folder / "account.json").read_text())
    key: Any = load_pem_private_key(account["private_key"].encode(), None).public_key()

    def admits(asked: str, authorization: str | None) -> bool:
        if authorization is None:
            return asked == PUBLIC
        return is_signed(authorization.removeprefix("Bearer "), key)

    try:
        with gcs(folder, bucket, admits=admits) as server:
            sys.stdout.write(f"{server.endpoint}\n")
            sys.stdout.flush()
            sys.stdin.read()
    except FileNotFoundError as error:
        sys.stdout.write(f"{error}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2])
