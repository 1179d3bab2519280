"""Looks at a machine before a run does: each check is a function of facts that gives findings, each with its fix."""
