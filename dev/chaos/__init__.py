"""The worker under every fault we could think of, on real Kafka, PostgreSQL and Redis, and what is left afterwards.

`python -m dev.chaos` publishes a lively shop's events while workers are killed and the servers under them fail.
Afterwards a checker that shares no code with the worker reads the topics and the tables and prints one line. Everything
random comes from the seed. Then each ablation, a worker with one safeguard taken out, must turn the checker red: a
checker that cannot fail proves nothing.

No part of what ships.
"""
