"""The graph document: its model, the files it is read from, its JSON Schema.

Pure but for reading the files it is given. May import `nvisy_dagster.sdk`, pydantic and the
standard library; knows neither components nor Dagster.
"""
