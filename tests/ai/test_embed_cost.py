"""What a call of `embed` takes of a limit of tokens."""

import pyarrow as pa

from nvisy_connectors.ai.embed import Embed, EmbedParams


def test_tokens_are_counted_where_they_are_known_else_estimated(documents) -> None:
    action = Embed(EmbedParams(), node_id="embed")
    # Three bytes to a token.
    assert action.cost(documents(["abcdef", "é", ""])) == 2 + 1 + 0
    known = documents(["abcdef", "x", "y"], tokens=pa.array([40, None, -1], pa.int32()))
    assert action.cost(known) == 40 + 1 + 1


def test_units_keep_to_the_budget_that_they_cost(documents) -> None:
    action = Embed(EmbedParams(batch_tokens=100), node_id="embed")
    batch = documents(["x" * 60] * 50)
    assert sum(action.cost(unit) for unit in action.split(batch)) == action.cost(batch) == 1000
    assert all(action.cost(unit) <= 100 for unit in action.split(batch))
