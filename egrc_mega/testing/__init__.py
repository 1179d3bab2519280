"""Helpers that tests share: tiny models, gloo worlds. Importable, so users can test their methods too."""
