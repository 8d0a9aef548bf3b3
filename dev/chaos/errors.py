"""Errors of the chaos run itself."""


class ChaosError(Exception):
    """The run could not take place; this says nothing about the worker."""
