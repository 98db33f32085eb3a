"""How the tests of this family reach the S3 server."""

from servers.seaweedfs import S3Server

from nvisy_connectors.object.s3 import S3Connection

BUCKET = "tests"


def connection_to(server: S3Server, **changes) -> S3Connection:
    fields = {
        "bucket": BUCKET,
        "region": server.region,
        "endpoint": server.endpoint,
        "access_key_id": server.access_key_id,
        "secret_access_key": server.secret_access_key,
    }
    return S3Connection.model_validate({**fields, **changes})
