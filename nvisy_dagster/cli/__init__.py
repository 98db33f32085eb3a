"""The command line `nvisy`: one file per command.

May import everything; nothing imports it. What a command needs is imported when it runs, so that
`nvisy --help` is quick and only the commands that need Dagster pay for importing it.
"""

from nvisy_dagster.cli.app import main as main
