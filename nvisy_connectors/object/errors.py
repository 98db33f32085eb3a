"""The one place that decides what an error of a store means for the run."""

import errno
import re

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


def store_error(error: Exception, uri: str) -> NvisyError:
    """What an error of obstore at `uri` means.

    Its exception classes tell too little (a refused listing is a `GenericError`), so the HTTP
    status and the error code of the answer decide.
    """
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else None
    kind = type(error).__name__
    said = " ".join(str(part) for part in (status, code) if part) or _first_line(text)
    if code == "NoSuchBucket":
        return ConfigError(
            f"there is no bucket at {uri}",
            remedy="check `bucket`, `region` and `endpoint` of the connection",
            tag="missing",
        )
    if kind == "PreconditionError" or status == 412:  # noqa: PLR2004 - HTTP "Precondition Failed"
        return changed(uri)
    if (
        code in _AUTH_CODES
        or status in {401, 403}
        or kind in {"UnauthenticatedError", "PermissionDeniedError"}
        or "/latest/api/token" in text
        or "169.254." in text
    ):
        return ConfigError(
            f"{uri} refuses these credentials: {said}",
            remedy="check the connection's keys, and that they may list, read and write there",
            tag="auth",
        )
    if isinstance(error, FileNotFoundError):
        return changed(uri)
    if isinstance(error, ValueError):
        return ConfigError(
            f"{uri} is not a valid address: {said}", remedy="check `prefix`", tag="path"
        )
    if status is None or status >= 500 or status in {408, 429}:  # noqa: PLR2004 - HTTP statuses
        return TransientError(
            f"{uri} cannot be reached now: {said}",
            remedy="check `endpoint` and the network if this lasts",
        )
    return ConfigError(
        f"{uri} refuses the request: {said}",
        remedy="check `bucket`, `region` and `endpoint` of the connection",
        tag="refused",
    )


def disk_error(error: OSError, uri: str) -> NvisyError:
    """What an error of the operating system at `uri` means."""
    reason = error.strerror or str(error)
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
