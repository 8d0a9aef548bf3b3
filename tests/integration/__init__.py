"""Tests of one part of the shell against real servers."""
