"""PostgreSQL, Redis and Kafka for laptops and tests, without installing any of them."""
