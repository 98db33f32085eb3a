"""What `filter` and `branch` ask of an expression."""

import pyarrow as pa

from nvisy_connectors.tabular.expression import Expression
from nvisy_connectors.tabular.syntax import RefusedError


def check_predicate(expression: Expression, kind: pa.DataType) -> None:
    """Refuse an expression whose result is not true or false.

    Raises:
        ConfigError: Its type is not BOOLEAN.
    """
    if not pa.types.is_boolean(kind):
        raise expression.error(
            RefusedError(f"it must be BOOLEAN, and is {kind}", remedy="compare it with something")
        )
