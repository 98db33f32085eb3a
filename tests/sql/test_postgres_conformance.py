"""The suites that the SDK demands, over a real server, in both modes."""

import pyarrow as pa
import pytest
from sql_records import records

from nvisy_connectors.sql.postgres import PostgresSink
from nvisy_connectors.sql.postgres.params import PostgresSinkParams
from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.testing import SinkConformance


class TestUpsert(SinkConformance):
    component = PostgresSink

    @pytest.fixture
    def connection(self, database):
        return database.connection

    @pytest.fixture
    def params(self, database):
        self.database = database
        return PostgresSinkParams(table="records")

    @pytest.fixture
    def rows(self):
        return records({
            "n": pa.array(range(8), pa.int64()),
            "text": ["a", "b", "", None, "e", "ü", "g", "\n"],
            "score": [1.5, -0.0, None, 1e300, 5.0, 6.0, 7.0, 8.0],
            "flag": [True, False, None, True, False, True, False, True],
            "parts": [[1, 2], [], None, [None], [5], [6], [7], [8]],
        })

    def refused(self, rows):
        kind = pa.dense_union([pa.field("a", pa.int8())])
        return [EdgeType("row", rows.schema.append(pa.field("u", kind)))]

    async def read_back(self, params, connection):
        if not self.database.query("SELECT to_regclass(%s)", [f'"{params.table}"'])[0][0]:
            return []
        return self.database.rows('SELECT *, _metadata::text AS "_metadata" FROM records')


class TestAppend(TestUpsert):
    replaces = False

    @pytest.fixture
    def params(self, database):
        self.database = database
        return PostgresSinkParams(table="records", mode="append")
