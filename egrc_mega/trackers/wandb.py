"""Weights & Biases. `WANDB_MODE=offline` keeps everything in the run's folder, for `wandb sync`."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import wandb


class Sink:
    """One run of wandb, which a resumed run goes on with."""

    def __init__(self, folder: Path, project: str, run: str, config: Mapping[str, Any]) -> None:
        # the same folder is the same run, whoever starts it again
        identity = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        self._run = wandb.init(
            project=project, name=run, id=identity, resume="allow", dir=str(folder), config=dict(config)
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values under their own names."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Send what is left, and end."""
        self._run.finish()
