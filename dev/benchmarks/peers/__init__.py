"""Other programs' own code for the same task, on the same PostgreSQL, for scale."""
