"""The rules of stock: pure functions over immutable values; no I/O, no clock, no randomness, standard library only."""
