"""The tracker trackio: a local database and page, or a Space. Its files go where TRACKIO_DIR says."""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class Sink:
    """One run of trackio, which a resumed run goes on with."""

    def __init__(self, folder: Path, project: str, run: str, config: Mapping[str, Any]) -> None:
        os.environ.setdefault("TRACKIO_DIR", str(folder))  # read when trackio is imported
        import trackio

        self._run = trackio.init(project=project, name=run, resume="allow", config=dict(config), embed=False)

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Log values under their own names."""
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        """Write what is left, and end."""
        self._run.finish()
