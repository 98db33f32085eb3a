"""The REST API and the pages around Dagster's; nothing is here yet."""
