"""Checks of the published contracts with other people's tools."""
