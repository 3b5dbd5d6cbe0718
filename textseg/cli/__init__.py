"""The command line: parsers, messages, the table of commands."""
