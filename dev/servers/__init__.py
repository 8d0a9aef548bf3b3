"""Servers for a laptop and for the tests: PostgreSQL, Redis and Kafka without installing any of them.

Nothing that ships imports this package; import-linter holds that. The one door is `inventory demo`, which loads it by
name when it runs from a checkout.
"""
