"""The commands behind ``python -m spatialkit`` and the Makefile."""
