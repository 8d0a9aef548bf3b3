"""The shell: handlers, the batch consumer, execution, the outbox relay, the expiry sweeper, dead letters."""
