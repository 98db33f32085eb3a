"""How a run fails: one error that names the node, the reason and the remedy."""

from anyio import BrokenResourceError

from nvisy_dagster.sdk import NvisyError, TransientError

BEGIN_ANEW = "begin the run anew: `nvisy run --fresh`, or the run tag nvisy/fresh = true"
"""The remedy when what an earlier attempt left cannot be used."""


class NodeError(NvisyError):
    """A node of a running stage failed.

    Args:
        node: Id of the node.
        message: What happened, with secrets removed.
        retryable: Whether running the stage again may succeed without any change.
        remedy: What the user can do.
        tag: Machine-readable kind.
    """

    def __init__(
        self,
        node: str,
        message: str,
        *,
        retryable: bool,
        remedy: str | None = None,
        tag: str | None = None,
    ) -> None:
        super().__init__(f"node {node!r}: {message}", remedy=remedy, tag=tag)
        self.node = node
        self.retryable = retryable


class StorageError(NvisyError):
    """A file of the run's own state cannot be read or written."""

    default_tag = "storage"


class RunConflictError(NvisyError):
    """Another live run holds the stage."""

    default_tag = "conflict"


def node_error(node: str, error: Exception) -> NodeError:
    """The error of a component, as the error of its node."""
    if isinstance(error, NodeError):
        return error
    if isinstance(error, NvisyError):
        return NodeError(
            node,
            error.message,
            retryable=isinstance(error, TransientError),
            remedy=error.remedy,
            tag=error.tag,
        )
    return NodeError(
        node,
        f"unexpected {type(error).__name__}: {error}",
        retryable=False,
        remedy="this is a bug in the component; report it with the run's log",
        tag="bug",
    )


def first_node_error(group: BaseExceptionGroup) -> BaseException:
    """The error that a task group failed of: a node's own before any other.

    That a neighbour takes nothing any more is never the reason: the neighbour failed first.
    """
    leaves = _leaves(group)
    own = [leaf for leaf in leaves if not isinstance(_origin(leaf), BrokenResourceError)]
    for leaf in own:
        if isinstance(leaf, NodeError):
            return leaf
    return (own or leaves)[0]


def _origin(error: BaseException) -> BaseException:
    return error.__cause__ or error if isinstance(error, NodeError) else error


def _leaves(error: BaseException) -> "list[BaseException]":
    if isinstance(error, BaseExceptionGroup):
        return [leaf for inner in error.exceptions for leaf in _leaves(inner)]
    return [error]
