"""Connection strings of Azure's storage accounts."""

from pydantic_core import PydanticCustomError

_FIELDS = {
    "accountname": "account_name",
    "accountkey": "account_key",
    "sharedaccesssignature": "sas_token",
    "blobendpoint": "endpoint",
}
_EMULATOR = {
    "account_name": "devstoreaccount1",
    # Public: the same in every emulator.
    "account_key": "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw==",  # noqa: E501
    "endpoint": "http://127.0.0.1:10000/devstoreaccount1",
}
_USUAL = "core.windows.net"


def parse_connection_string(text: str) -> dict[str, str]:
    """The fields of a connection that a string such as `AccountName=...;AccountKey=...` says.

    Raises:
        PydanticCustomError: It is none.
    """
    parts = [part.strip() for part in text.strip().split(";") if part.strip()]
    said: dict[str, str] = {}
    for part in parts:
        name, separator, value = part.partition("=")
        if not separator:
            raise PydanticCustomError(
                "connection_string",
                "the connection string is none of a storage account: a part of it has no `=`",
                {"remedy": "copy it from the account's access keys in the portal"},
            )
        said[name.strip().lower()] = value.strip()
    if said.get("usedevelopmentstorage", "").lower() == "true":
        return dict(_EMULATOR)
    found = {_FIELDS[name]: value for name, value in said.items() if name in _FIELDS and value}
    if "endpoint" in found:
        found["endpoint"] = found["endpoint"].rstrip("/")
    if "account_name" not in found and (account := _account_of(found.get("endpoint", ""))):
        found["account_name"] = account
    suffix = said.get("endpointsuffix") or _USUAL
    protocol = (said.get("defaultendpointsprotocol") or "https").lower()
    account = found.get("account_name")
    if account and "endpoint" not in found and (suffix, protocol) != (_USUAL, "https"):
        found["endpoint"] = f"{protocol}://{account}.blob.{suffix}"
    return found


def _account_of(endpoint: str) -> str:
    """Of `https://account.blob.core.windows.net`."""
    host = endpoint.partition("://")[2].partition("/")[0]
    account, separator, _ = host.partition(".blob.")
    return account if separator else ""
