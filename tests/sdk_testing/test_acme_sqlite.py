"""The suites over the connector of the author's guide."""

import sqlite3
from contextlib import closing

import numpy as np
import pyarrow as pa
import pytest
from acme_sqlite.action import Lines, LinesParams
from acme_sqlite.router import ByLength, LengthParams
from acme_sqlite.sink import SqliteSink, UpsertParams
from acme_sqlite.source import SqliteSource, TableParams
from sqlite_log import AppendLog, EpochLog, LogParams

from nvisy_dagster.sdk import EdgeType
from nvisy_dagster.sdk.envelope import ENVELOPE, with_envelope
from nvisy_dagster.sdk.identity import root_ids
from nvisy_dagster.sdk.testing import (
    ActionConformance,
    RouterConformance,
    SinkConformance,
    SourceConformance,
)

TEXTS = ["one\ntwo", "three", "", "four\n\nfive\nsix", "seven", "one\ntwo"]


@pytest.fixture
def rows():
    texts = pa.array(TEXTS, pa.string())
    positions = np.arange(len(TEXTS))
    ids = root_ids("memory:test", positions)
    columns = pa.record_batch({"text": texts})
    return with_envelope(columns, ids=ids, uri="memory:test", positions=positions)


class TestSqliteSource(SourceConformance):
    component = SqliteSource

    @pytest.fixture
    def params(self, tmp_path):
        path = tmp_path / "texts.db"
        with closing(sqlite3.connect(path)) as db:
            db.execute("create table texts (id integer primary key, text text)")
            db.executemany("insert into texts (text) values (?)", [(text,) for text in TEXTS])
            db.commit()
        return TableParams(path=path, table="texts", batch_rows=2)


class TestSqliteSink(SinkConformance):
    component = SqliteSink

    @pytest.fixture
    def params(self, tmp_path):
        return UpsertParams(path=tmp_path / "texts.db", table="texts")

    async def read_back(self, params, connection):
        with closing(sqlite3.connect(params.path)) as db:
            found = db.execute(f"select id, text from {params.table}").fetchall()
        return [{"_id": key, "text": text} for key, text in found]

    def refused(self, rows):
        return [EdgeType("row", ENVELOPE)]


class TestEpochLog(TestSqliteSink):
    component = EpochLog

    @pytest.fixture
    def params(self, tmp_path):
        return LogParams(path=tmp_path / "texts.db", table="texts")

    def refused(self, rows):
        return []


class TestAppendLog(TestEpochLog):
    component = AppendLog


class TestLines(ActionConformance):
    component = Lines

    @pytest.fixture
    def params(self):
        return LinesParams()


class TestByLength(RouterConformance):
    component = ByLength

    @pytest.fixture
    def params(self):
        return LengthParams(characters=6)

    def refused(self, rows):
        return [EdgeType("row", ENVELOPE)]
