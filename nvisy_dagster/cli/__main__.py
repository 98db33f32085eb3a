"""`python -m nvisy_dagster.cli`, the same as `nvisy`."""

from nvisy_dagster.cli import main

if __name__ == "__main__":
    main()
