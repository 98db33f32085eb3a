"""A Dagster project whose graphs are components."""
