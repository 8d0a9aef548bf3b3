"""Errors that make a benchmark impossible or worthless."""


class BenchmarkError(Exception):
    """The measurement could not be taken, or a contestant did not do all of the work."""
