"""The command line: thin commands over the library and the two roles."""
