"""The suite that the SDK demands of a source, over a real server."""

import pytest

from nvisy_connectors.sql.postgres import PostgresSource
from nvisy_connectors.sql.postgres.source_params import PostgresSourceParams
from nvisy_dagster.sdk.testing import SourceConformance


class TestByNumber(SourceConformance):
    component = PostgresSource
    made = "id bigint PRIMARY KEY"
    key = "n"

    @pytest.fixture
    def connection(self, database):
        return database.connection

    @pytest.fixture
    def params(self, database):
        database.query(f"CREATE TABLE t ({self.made}, word text, at timestamptz NOT NULL)")
        database.query(
            f"INSERT INTO t SELECT {self.key}, repeat('ü', n), now() + n * interval '1 s' "
            "FROM generate_series(1, 11) n"
        )
        return PostgresSourceParams(table="t", batch_rows=4, cursor_column="at")


class TestByTexts(TestByNumber):
    made = "a text, b numeric(9, 2), PRIMARY KEY (a, b)"
    key = "(n % 3)::text, n / 7.0"


class TestByKeyOfAView(TestByNumber):
    made = "id uuid"
    key = "md5(n::text)::uuid"

    @pytest.fixture
    def params(self, database):
        given = TestByNumber.params.__wrapped__(self, database)
        database.query("CREATE VIEW v AS SELECT * FROM t")
        return given.model_copy(update={"table": "v", "key": ("id",)})
