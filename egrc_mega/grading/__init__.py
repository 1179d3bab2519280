"""Grading: extract the answer, judge it in killable processes: right, wrong, or could not grade."""
