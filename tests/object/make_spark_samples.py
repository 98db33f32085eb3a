"""Writes `spark_samples` with Apache Spark: `python make_spark_samples.py`, with a Java 17.

They were made by pyspark 4.3.0. The tests only read them.
"""

import shutil
from pathlib import Path

from pyspark.sql import DataFrame, SparkSession
from spark_values import LINES, PARTITIONED, ROWS, TEXTS

HERE = Path(__file__).parent / "spark_samples"

ROWS_TYPE = """`id` BIGINT, `full name` STRING, `price` DECIMAL(7, 2), `share` DECIMAL(18, 18),
    `huge` DECIMAL(38, 0), `score` DOUBLE, `ok` BOOLEAN, `day` DATE, `at` TIMESTAMP, `raw` BINARY,
    `tags` ARRAY<STRING>, `counts` MAP<STRING, BIGINT>,
    `author` STRUCT<name: STRING, at: ARRAY<STRUCT<city: STRING, zip: INT>>>"""
LINES_TYPE = """id BIGINT, name STRING, note STRING, score DOUBLE, ok BOOLEAN, day DATE,
    at TIMESTAMP"""

PARQUET = {
    "snappy_int96": ("snappy", "INT96", "false"),
    "gzip_micros": ("gzip", "TIMESTAMP_MICROS", "false"),
    "zstd_legacy": ("zstd", "TIMESTAMP_MICROS", "true"),
    "plain_millis": ("uncompressed", "TIMESTAMP_MILLIS", "false"),
}
"""Compression, type of timestamps, and whether decimals and lists are as of Spark 1."""


def frame(spark: SparkSession, rows: list, kind: str) -> DataFrame:
    """One partition, so one part."""
    return spark.createDataFrame(rows, kind).coalesce(1)


def parquet(spark: SparkSession) -> None:
    rows = frame(spark, ROWS, ROWS_TYPE)
    for name, (compression, timestamps, legacy) in PARQUET.items():
        spark.conf.set("spark.sql.parquet.outputTimestampType", timestamps)
        spark.conf.set("spark.sql.parquet.writeLegacyFormat", legacy)
        rows.write.option("compression", compression).parquet(str(HERE / "parquet" / name))
    spark.conf.set("spark.sql.parquet.writeLegacyFormat", "false")
    spark.conf.unset("spark.sql.parquet.outputTimestampType")
    # Two parts with rows, and one with none.
    names = rows.select("id", "full name")
    names.repartition(2, "id").write.parquet(str(HERE / "parquet" / "parts"))
    names.filter("id < 0").write.mode("append").parquet(str(HERE / "parquet" / "parts"))
    partitioned = frame(spark, PARTITIONED, "n BIGINT, day DATE, region STRING")
    partitioned.write.partitionBy("day", "region").parquet(str(HERE / "parquet" / "partitioned"))


def lines(spark: SparkSession) -> None:
    rows = frame(spark, LINES, LINES_TYPE)
    rows.write.csv(str(HERE / "csv" / "header"), header=True)
    rows.write.csv(str(HERE / "csv" / "bare"))
    rows.write.csv(str(HERE / "csv" / "gzip"), header=True, compression="gzip")
    rows.write.csv(str(HERE / "csv" / "doubled"), header=True, escape='"')
    rows.write.csv(str(HERE / "csv" / "all_quoted"), header=True, sep=";", quoteAll=True)
    rows.write.json(str(HERE / "json" / "plain"))
    rows.write.json(str(HERE / "json" / "gzip"), compression="gzip")
    rows.write.json(str(HERE / "json" / "bzip2"), compression="bzip2")
    rows.write.json(str(HERE / "json" / "nulls"), ignoreNullFields=False)
    nested = frame(spark, ROWS, ROWS_TYPE).drop("raw")
    nested.write.json(str(HERE / "json" / "nested"))
    texts = frame(spark, [(text,) for text in TEXTS], "value STRING")
    texts.write.text(str(HERE / "text"))


def main() -> None:
    shutil.rmtree(HERE, ignore_errors=True)
    session = (
        SparkSession.builder
        .master("local[1]")
        .config("spark.ui.enabled", "false")
        .config("spark.sql.session.timeZone", "UTC")
        .config("spark.sql.parquet.int96RebaseModeInWrite", "CORRECTED")
        .config("spark.sql.adaptive.coalescePartitions.enabled", "false")
        .getOrCreate()
    )
    parquet(session)
    lines(session)
    session.stop()


if __name__ == "__main__":
    main()
