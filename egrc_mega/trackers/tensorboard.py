"""TensorBoard's event files, by tensorboardX: `tensorboard --logdir RUN/trackers/tensorboard`."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tensorboardX import SummaryWriter


class Sink:
    """One event file for each start of a run; TensorBoard reads them as one."""

    def __init__(self, folder: Path, _project: str, _run: str, config: Mapping[str, Any]) -> None:
        self._writer = SummaryWriter(str(folder), write_to_disk=True)
        self._writer.add_text("config", f"```\n{json.dumps(config, indent=1, default=str)}\n```")

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Write scalars under their own names."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        """Close the event file for good."""
        self._writer.close()
