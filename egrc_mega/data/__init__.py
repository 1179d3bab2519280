"""Prompts: readers with quarantine, chat templates, the tokenizer."""
