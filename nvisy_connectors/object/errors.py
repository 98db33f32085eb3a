"""The one place that decides what an error of a store means for the run."""

import errno
import re
from http import HTTPStatus

from nvisy_dagster.sdk import ConfigError, NvisyError, TransientError

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_AUTH_CODES = frozenset({
    "AccessDenied",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidToken",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
})
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_CHECK = "check `bucket`, `region` and `endpoint` of the connection"
_LOCAL_CONFIG = {
    errno.EACCES: "permission",
    errno.EPERM: "permission",
    errno.EROFS: "permission",
    errno.ENOSPC: "disk_full",
    errno.EDQUOT: "disk_full",
    errno.EFBIG: "disk_full",
    errno.ENOTDIR: "path",
    errno.EISDIR: "path",
    errno.EEXIST: "path",
    errno.ENAMETOOLONG: "path",
    errno.ELOOP: "path",
}


def changed(uri: str) -> TransientError:
    """An object is not what the listing said; reading again from the last cursor may succeed."""
    return TransientError(
        f"{uri} changed or was deleted while it was being read",
        remedy="run again when nothing writes to it",
        tag="changed",
    )


def store_error(error: Exception, uri: str) -> NvisyError:  # noqa: PLR0911 - one per verdict
    """What an error of obstore at `uri` means.

    Its exception classes tell too little (a refused listing is a `GenericError`), so the HTTP
    status and the error code of the answer decide.
    """
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else None
    said = " ".join(str(part) for part in (status, code) if part) or _first_line(text)
    if code == "NoSuchBucket":
        return ConfigError(f"there is no bucket at {uri}", remedy=_CHECK, tag="not_found")
    if status == HTTPStatus.PRECONDITION_FAILED or type(error).__name__ == "PreconditionError":
        return changed(uri)
    if _is_refusal(error, status, code, text):
        return ConfigError(
            f"{uri} refuses these credentials: {said}",
            remedy="check the connection's keys, and that they may list, read and write there",
            tag="auth",
        )
    if isinstance(error, FileNotFoundError):
        return changed(uri)
    if isinstance(error, ValueError):
        remedy = "check `prefix`"
        return ConfigError(f"{uri} is not a valid address: {said}", remedy=remedy, tag="path")
    if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
        remedy = "check `endpoint` and the network if this lasts"
        return TransientError(f"{uri} cannot be reached now: {said}", remedy=remedy)
    return ConfigError(f"{uri} refuses the request: {said}", remedy=_CHECK, tag="refused")


def _is_refusal(error: Exception, status: int | None, code: str | None, text: str) -> bool:
    return (
        code in _AUTH_CODES
        or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        or type(error).__name__ in {"UnauthenticatedError", "PermissionDeniedError"}
        # Without keys the client asks the machine it runs on for a role.
        or "169.254." in text
    )


def disk_error(error: OSError, uri: str, *, writing: bool = False) -> NvisyError:
    """What an error of the operating system at `uri` means."""
    reason = error.strerror or str(error)
    if isinstance(error, FileNotFoundError) and writing:
        return ConfigError(
            f"{uri} cannot be written: there is no such folder",
            remedy="check `path`, and that nothing deletes the folder during a run",
            tag="path",
        )
    if isinstance(error, FileNotFoundError):
        return changed(uri)
    tag = _LOCAL_CONFIG.get(error.errno or 0)
    if tag is None:
        return TransientError(f"{uri}: {reason}", tag="disk")
    remedies = {
        "permission": "give the user that runs this the right to read and write there",
        "disk_full": "make room and run again",
        "path": "check `path`",
    }
    return ConfigError(f"{uri}: {reason}", remedy=remedies[tag], tag=tag)


def _first_line(text: str) -> str:
    return text.strip().partition("\n")[0][:300]
