"""Servers of our own as child processes, and servers that somebody else has started: where they are found."""
