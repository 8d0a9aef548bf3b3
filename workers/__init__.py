"""The Kafka side: handlers, consuming, publishing, the sweeper, maintenance, and refreshing the cache."""
