"""Weight sync through a shared folder: safetensors in Hugging Face names, a new folder for every version.

The exporter and this transport share the table and the writer, so what the servers load is what gets published.
"""

import re
import shutil
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Protocol

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import write_folder
from egrc_mega.rollout.weights import FolderWeights, Weights

VERSION = re.compile(r"v\d+")
"""Names of the folders that are made here; nothing else is removed."""


class Servers(Protocol):
    """What takes new weights: see `rollout.fleet.Fleet`."""

    def update_weights(self, weights: Weights) -> None: ...


class DiskSync:
    """Writes versions below `folder` and tells the servers; only the version in use stays."""

    def __init__(self, folder: Path, model_path: Path, servers: Servers) -> None:
        self.folder, self.model_path, self.servers = folder, model_path, servers

    def publish(
        self, tensors: Iterable[tuple[str, torch.Tensor]], architecture: Architecture, dtype: torch.dtype, version: str
    ) -> None:
        """Write `tensors` and move every server to `version`; returns when all of them have confirmed it."""
        self.stage(tensors, architecture, dtype, version)()

    def stage(
        self, tensors: Iterable[tuple[str, torch.Tensor]], architecture: Architecture, dtype: torch.dtype, version: str
    ) -> Callable[[], None]:
        """Write `tensors`; what is returned does the rest of `publish`, in any thread."""
        path = self.folder / version
        write_folder(path, tensors, architecture=architecture, source=self.model_path, dtype=dtype)

        def deliver() -> None:
            self.servers.update_weights(FolderWeights(path, version))
            self._remove_all_but(path)

        return deliver

    def _remove_all_but(self, path: Path) -> None:
        for old in self.folder.iterdir():
            if old != path and VERSION.fullmatch(old.name) and not old.is_symlink():
                # NFS keeps files that a server has open under other names: they go with the next version
                shutil.rmtree(old, ignore_errors=True)
