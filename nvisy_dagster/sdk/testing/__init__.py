"""Conformance suites: what every source, sink, action and router must do, as pytest classes.

Subclass one per component in your tests; only tests may import this package. See
`docs/extending.md`.
"""

import pytest

# Asserts outside a test module say what was compared only when pytest rewrites them.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in (
            "action",
            "blocking",
            "component",
            "consumer",
            "joining",
            "records",
            "router",
            "sequential",
            "sink",
            "source",
        )
    )
)

from nvisy_dagster.sdk.testing.action import ActionConformance as ActionConformance  # noqa: E402
from nvisy_dagster.sdk.testing.blocking import (  # noqa: E402
    BlockingActionConformance as BlockingActionConformance,
)
from nvisy_dagster.sdk.testing.component import Conformance as Conformance  # noqa: E402
from nvisy_dagster.sdk.testing.joining import (  # noqa: E402
    JoiningActionConformance as JoiningActionConformance,
)
from nvisy_dagster.sdk.testing.router import RouterConformance as RouterConformance  # noqa: E402
from nvisy_dagster.sdk.testing.sequential import (  # noqa: E402
    SequentialActionConformance as SequentialActionConformance,
)
from nvisy_dagster.sdk.testing.sink import SinkConformance as SinkConformance  # noqa: E402
from nvisy_dagster.sdk.testing.source import SourceConformance as SourceConformance  # noqa: E402
