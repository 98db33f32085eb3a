"""The built-in connectors and actions, one package per family.

A family imports `nvisy_dagster.sdk` and its own clients (when used), and no other family.
"""
