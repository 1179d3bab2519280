"""The miniature: a synthetic reasoning task, its tokenizer, data and base model, small enough for a laptop's CPU."""
