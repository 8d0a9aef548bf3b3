"""PostgreSQL and Redis: plain functions that take a connection, set-based SQL, no rules."""
