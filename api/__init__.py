"""The HTTP API: services read, reserve, deduct and correct stock, through the same engine as the worker."""
