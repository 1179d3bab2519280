"""A grid of runs, in parallel over cores and hosts, resumable, with one table and one page."""
