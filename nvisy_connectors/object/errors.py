"""The one place that decides what an error of a store means for the run."""

import errno
import re
from dataclasses import dataclass
from http import HTTPStatus

from nvisy_dagster.sdk import ConfigError, NvisyError, TransientError

_STATUS = re.compile(r"(?:status code|\(code): (\d{3})")
_CODE = re.compile(r"<Code>(\w+)</Code>")
_AUTH_CODES = frozenset({
    "AccessDenied",
    "AuthenticationFailed",
    "AuthenticationRequired",
    "AuthorizationFailure",
    "ExpiredToken",
    "InvalidAccessKeyId",
    "InvalidAuthenticationInfo",
    "InvalidToken",
    "NoAuthenticationInformation",
    "PublicAccessNotPermitted",
    "RequestTimeTooSkewed",
    "SignatureDoesNotMatch",
})
_NO_BUCKET = frozenset({"NoSuchBucket", "ContainerNotFound", "ContainerBeingDeleted"})
_PRIVATE = "ResourceNotFound"
"""What Azure says to the anonymous, whether there is nothing or it is not theirs."""
_LATER = frozenset({HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS})
_UNFINISHED = frozenset({"InvalidBlockList", "NoSuchUpload"})
"""An upload was finished before, and the answer is lost; once more from its beginning it works."""
# Without keys the client asks the machine it runs on who it is.
_MACHINES = ("169.254.", "metadata.google.internal", "Failed to read token file")
_TOKEN = re.compile(r"performing token request|getting token response|Failed to decode.*token")
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


@dataclass(frozen=True)
class StoreTerms:
    """How a store is called, for those who read its errors."""

    store: str
    bucket: str
    """What holds its objects; also the field that names it."""
    check: str
    """Fields that may be wrong when it is not found."""


S3_TERMS = StoreTerms("S3", "bucket", "`bucket`, `region` and `endpoint`")


def changed(uri: str) -> TransientError:
    """An object is not what the listing said; reading again from the last cursor may succeed."""
    return TransientError(
        f"{uri} changed or was deleted while it was being read",
        remedy="run again when nothing writes to it",
        tag="changed",
    )


def store_error(  # noqa: PLR0911 - one per verdict
    error: Exception, uri: str, terms: StoreTerms = S3_TERMS
) -> NvisyError:
    """What an error of obstore at `uri` means.

    Its exception classes tell too little (a refused listing is a `GenericError`), so the HTTP
    status and the error code of the answer decide.
    """
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else None
    said = " ".join(str(part) for part in (status, code) if part) or without_queries(text)
    check = f"check {terms.check} of the connection"
    if code in _NO_BUCKET:
        return ConfigError(f"there is no {terms.bucket} at {uri}", remedy=check, tag="not_found")
    if code == _PRIVATE:
        return ConfigError(
            f"there is nothing at {uri}, or it is not public",
            remedy=f"{check}, and add credentials if it is not public",
            tag="not_found",
        )
    if _is_changed(error, status):
        return changed(uri)
    if _is_refusal(error, status, code, text):
        return ConfigError(
            f"{uri} refuses these credentials: {said}",
            remedy="check the connection's keys, and that they may list, read, write and delete "
            "there",
            tag="auth",
        )
    if code in _UNFINISHED:
        return TransientError(f"{uri}: an upload was cut off: {said}", tag="server")
    if isinstance(error, FileNotFoundError):
        return changed(uri)
    if status == HTTPStatus.NOT_FOUND:
        return ConfigError(f"there is no {terms.bucket} at {uri}", remedy=check, tag="not_found")
    if isinstance(error, ValueError):
        remedy = "check `prefix`"
        return ConfigError(f"{uri} is not a valid address: {said}", remedy=remedy, tag="path")
    if status is None or status >= HTTPStatus.INTERNAL_SERVER_ERROR or status in _LATER:
        remedy = f"check {terms.check} and the network if this lasts"
        return TransientError(f"{uri} cannot be reached now: {said}", remedy=remedy)
    return ConfigError(f"{uri} refuses the request: {said}", remedy=check, tag="refused")


def _is_changed(error: Exception, status: int | None) -> bool:
    gone = {HTTPStatus.PRECONDITION_FAILED, HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE}
    return status in gone or type(error).__name__ == "PreconditionError"


def _is_refusal(error: Exception, status: int | None, code: str | None, text: str) -> bool:
    return (
        code in _AUTH_CODES
        or status in {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN}
        or type(error).__name__ in {"UnauthenticatedError", "PermissionDeniedError"}
        or any(machine in text for machine in _MACHINES)
        # Who gives out tokens says 400 to what it does not know.
        or bool(_TOKEN.search(text) and status and status < HTTPStatus.INTERNAL_SERVER_ERROR)
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


def without_queries(text: str) -> str:
    """The first line of what a client says, without what may be a signature in a URL."""
    return re.sub(r"\?\S*=\S*", "", text.strip().partition("\n")[0])[:300]
