"""A short run under faults, the tests of the checker, the ablations and the fuzz test."""
