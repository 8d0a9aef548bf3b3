"""What makes a benchmark impossible or worthless."""


class BenchmarkError(Exception):
    """A measurement could not be made, or what was measured did not do the work."""
