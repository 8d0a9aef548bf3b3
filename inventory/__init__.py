"""The program: command line, settings, wiring and what is seen from outside."""
