"""What a run will cost before it starts: bytes of every rank, time of a step, GPU hours. Arithmetic; no torch."""
