"""Where a run stands among its stages, and when it moves on: values and pure functions of them."""
