"""Chaos runs: the worker under faults, on real Kafka, PostgreSQL and Redis, and a checker of the outcome.

`python -m dev.chaos` publishes a shop's events while workers are killed and servers fail. Afterwards a checker that
shares no code with the worker reads the topics and tables and prints one line. Everything random follows from the
seed. Then come the ablations: a worker with one safeguard removed must turn the checker red, because a checker that
cannot fail proves nothing.
"""
