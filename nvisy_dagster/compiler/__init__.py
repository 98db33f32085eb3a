"""Graph -> plan. Pure: no I/O, every error at once, each with its JSON path and remedy."""

from nvisy_dagster.compiler.compile import compile_document as compile_document
from nvisy_dagster.compiler.compile import compile_file as compile_file
from nvisy_dagster.compiler.compile import compile_graph as compile_graph
from nvisy_dagster.compiler.compile import connections_beside as connections_beside
from nvisy_dagster.compiler.plan import Edge as Edge
from nvisy_dagster.compiler.plan import Node as Node
from nvisy_dagster.compiler.plan import Output as Output
from nvisy_dagster.compiler.plan import Plan as Plan
from nvisy_dagster.compiler.plan import Stage as Stage
