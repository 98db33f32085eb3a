"""Azure Blob Storage."""

from nvisy_connectors.object import bucket_components as buckets
from nvisy_connectors.object.azure_connection import AzureConnection


class AzureSourceParams(buckets.BucketReadParams):
    """Which objects to read."""


class AzureSinkParams(buckets.BucketWriteParams):
    """Where to write."""


class AzureSource(buckets.BucketSource[AzureSourceParams]):
    """Read objects of an Azure container, in the order of their keys.

    An object that is replaced while it is read is noticed, never mixed.
    """

    name = "azure"
    connection_type = AzureConnection


class AzureSink(buckets.BucketSink[AzureSinkParams]):
    """Write objects to an Azure container.

    Parts wait on the disk of this machine until their epoch is committed, then they are uploaded.
    """

    name = "azure"
    connection_type = AzureConnection
