"""Event contracts: what is read from Kafka, what is published, and the table of topics."""
