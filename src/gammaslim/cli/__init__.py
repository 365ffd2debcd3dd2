"""The command line: thin over the same functions that Python users call."""
