"""What an object store refuses, told so that a person knows what to do."""

import re
from html import unescape


def unanswered() -> type[Exception]:
    """What the client raises when it cannot tell what became of a request."""
    from obstore.exceptions import GenericError

    return GenericError


_FULL = re.compile(
    r"\b507\b|quota|insufficient ?storage|storage ?full|account ?full", re.IGNORECASE
)
_UNREACHABLE = re.compile(r"error sending request|connect|timed out|dns error", re.IGNORECASE)
_TOKEN = re.compile(r"\btoken failed: ")
_DENIED = re.compile(r"status code: 40[13]\b")
_ABSENT = re.compile(r"\b404\b|NoSuchBucket|ContainerNotFound")
_SERVER = re.compile(r"status code: 5\d\d")
_AGAIN = "then run again; it goes on from the checkpoint"


def kind_of(error: Exception) -> tuple[str, str]:
    """Tag and remedy of what a store refuses."""
    from obstore.exceptions import PermissionDeniedError, UnauthenticatedError

    said = _said(error)
    answer = said.rpartition(_PERFORMED)[2]
    if _FULL.search(answer):
        return "quota", f"the store takes no more: make room or raise its quota, {_AGAIN}"
    denied = isinstance(error, (PermissionDeniedError, UnauthenticatedError))
    # What refuses a listing is of no class of its own.
    if denied or _DENIED.search(answer) or _TOKEN.search(said):
        return "auth", (
            "check the credentials in the environment, and that they may read, write, list and "
            f"delete there, {_AGAIN}"
        )
    if isinstance(error, FileNotFoundError) or _ABSENT.search(answer):
        return "not_found", "check the URL and that the bucket is there, then run again"
    if _SERVER.search(answer):
        return "server", f"wait until the store is well, {_AGAIN}"
    if _UNREACHABLE.search(answer):
        return "connection", f"check the URL, the network and that the store is up, {_AGAIN}"
    return "storage", (
        "check the URL, the credentials in the environment and that the bucket is there, then "
        "run again"
    )


_SHOWN = 400
_READ = 4000
_PERFORMED = " failed: "
_REQUEST = re.compile(r"Error performing (\w+) .*? in [^ ]+s\b.*? - ")


_STATUS = re.compile(r"status code: (\d{3}(?: [A-Z][A-Za-z -]*)?)")
_CODE = re.compile(r"<Code>([^<]+)</Code>")
_MESSAGE = re.compile(r"<Message>([^<]+)</Message>")


def reason_of(error: Exception) -> str:
    """What the store says, in one line, without the address: it may hold a signature.

    Of an answer in XML that is its code and its message.
    """
    said = _said(error)
    code = _CODE.search(said)
    if code is None:
        return said.partition("<?xml")[0][:_SHOWN]
    status, message = _STATUS.search(said), _MESSAGE.search(said)
    number = f" ({status[1]})" if status else ""
    words = f": {unescape(message[1].strip())}" if message else ""
    return f"{code[1]}{number}{words}"[:_SHOWN]


def _said(error: Exception) -> str:
    said = " ".join(str(error).split("\n\nDebug source:", 1)[0].split())
    return re.sub(r"\?\S*=\S*", "", _REQUEST.sub(rf"\1{_PERFORMED}", said))[:_READ]
