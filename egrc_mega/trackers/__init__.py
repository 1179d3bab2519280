"""What a run tells TensorBoard, Weights & Biases and trackio: everything comes from `metrics.jsonl`."""
