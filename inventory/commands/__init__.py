"""One module per command or group of commands; heavy imports stay inside functions, so `--help` is instant."""
