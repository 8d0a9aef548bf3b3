"""Tests of pure code; they start no server and open no connection."""
