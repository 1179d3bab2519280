"""Evaluation: accuracy, length and L-Acc with intervals, at the points base, compress and explore."""
