"""Object stores and local folders, and the formats of the files in them.

`local.py`, `s3.py`, `gcs.py` and `azure.py` only say how a store is reached; `source.py` and
`sink.py` do the work over any `Folder`, `formats/` knows what is inside a file. May import the SDK
and obstore (when used).
"""
