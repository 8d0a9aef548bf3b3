"""The HTTP API: the shop's own services ask, reserve, deduct and correct stock on the engine that the worker uses."""
