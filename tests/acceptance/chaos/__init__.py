"""A short run under faults, and the checker's own test: it must go red."""
