"""From the outbox and the dead letters to Kafka."""
