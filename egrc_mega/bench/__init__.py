"""Microbenchmarks of the kernels against their peers."""
