"""The example of checked reviews against the same computation in plain Python."""

import datetime as dt
import json

import pyarrow.parquet as pq
import pytest

GRAPH = "examples/reviews/reviews.json"
BAD = {"1017", "1031", "1044", "1073", "1090", "1101"}


@pytest.fixture
def reviews(checkout):
    return checkout / "examples" / "reviews"


def expected(reviews):
    found = {}
    for line in (reviews / "reviews.jsonl").read_text("utf-8").splitlines():
        review = json.loads(line)
        if review["review_id"] in BAD:
            continue
        try:
            posted = dt.datetime.strptime(review["posted"], "%d.%m.%Y").date()  # noqa: DTZ007
        except ValueError:
            posted = None
        found[int(review["review_id"])] = {
            "text": review["body"],
            "title": f"{review['product']}, {review['rating']} of 5",
            "rating": int(review["rating"]),
            "posted": posted,
            "email": review["email"],
        }
    return found


def written(folder):
    [part] = folder.glob("*.parquet")
    rows = pq.read_table(part).to_pylist()
    return {row["review_id"]: row for row in rows}


def test_reviews(run, reviews):
    wanted = expected(reviews)
    run("nvisy", "run", "--engine-only", GRAPH)
    made = written(reviews / "out" / "all")
    assert made.keys() == wanted.keys()
    assert all(row.items() <= made[key].items() for key, row in wanted.items())
    assert sum(row["posted"] is None for row in made.values()) == 1
    sample = written(reviews / "out" / "labelling")
    assert all(made[key] == row for key, row in sample.items())
    assert 10 < len(sample) < 50

    letters = json.loads(run("nvisy", "dead-letters", "list", "--json", GRAPH))["letters"]
    assert len(letters) == len(BAD)
    told = " ".join(json.dumps(letter) for letter in letters)
    assert "rule 'rating of 1 to 5'" in told
    assert "rule 'says something'" in told
    assert "JSON Schema: $.email" in told
    assert "(required)" in told

    # Another run, through Dagster, chooses the same sample.
    run("nvisy", "run", GRAPH)
    assert written(reviews / "out" / "labelling") == sample
