"""Event contracts: what may arrive, what goes out, and the one table of topics."""
