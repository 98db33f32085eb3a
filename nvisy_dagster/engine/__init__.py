"""Runs a plan: stages as task groups, channels bounded by bytes, barriers, checkpoints.

Knows nothing of Dagster; imports the compiler's plan, the graph's connections and the SDK.
"""
