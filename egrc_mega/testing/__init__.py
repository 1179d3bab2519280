"""Helpers that tests share: tiny models, gloo worlds, synthetic runs. Importable, so users can test their methods too."""
