"""Benchmarks: the worker against what a user would otherwise write and against the database's own limit."""
