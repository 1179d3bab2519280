"""Configuration: a pydantic schema, YAML loading with overrides, cross-field checks. Imports no torch."""
