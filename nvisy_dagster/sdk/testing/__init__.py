"""Conformance suites: what every source, sink, action and router must do, as pytest classes.

Subclass one per component in your tests; only tests may import this package. See
`docs/extending.md`.
"""

import pytest

# Asserts outside a test module say what was compared only when pytest rewrites them.
pytest.register_assert_rewrite(
    *(
        f"{__name__}.{module}"
        for module in ("action", "component", "consumer", "records", "router", "sink", "source")
    )
)

from nvisy_dagster.sdk.testing.action import ActionConformance as ActionConformance  # noqa: E402
from nvisy_dagster.sdk.testing.component import Conformance as Conformance  # noqa: E402
from nvisy_dagster.sdk.testing.router import RouterConformance as RouterConformance  # noqa: E402
from nvisy_dagster.sdk.testing.sink import SinkConformance as SinkConformance  # noqa: E402
from nvisy_dagster.sdk.testing.source import SourceConformance as SourceConformance  # noqa: E402
