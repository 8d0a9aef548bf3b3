"""Servers, demo, benchmarks, chaos runs and the oracle: for laptops and tests. Nothing that ships imports it."""
