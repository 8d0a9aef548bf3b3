"""Tests of the whole program, started and used as an operator would."""
