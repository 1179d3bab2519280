"""What a run tells: events in `metrics.jsonl` (the one source of truth) and a line per step."""
