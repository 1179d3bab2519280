"""Methods, one a file: how problems become requests and graded groups become advantages. Pure: no I/O, no torch."""
