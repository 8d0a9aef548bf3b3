"""Servers, demo, benchmarks, chaos runs and the oracle, for laptops and tests.

Nothing that ships imports this package; import-linter enforces it. Only `inventory demo` loads it, by name, when run
from a checkout.
"""
