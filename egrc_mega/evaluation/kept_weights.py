"""`evaluation_weights/`: a folder for each point whose weights wait to be measured beside training."""

import os
import re
import shutil
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

import torch

from egrc_mega.convert.family import Architecture
from egrc_mega.convert.hf_folder import HfTensors, write_folder
from egrc_mega.convert.publish import new_folder
from egrc_mega.evaluation.fingerprint import Fingerprint, fingerprint_of_folder
from egrc_mega.evaluation.records import Subject
from egrc_mega.manifest import MANIFEST, is_complete, read_manifest

FOLDER = "evaluation_weights"
OWN = re.compile(r"\.?step_\d{6,}.*")
"""Names of what is made here, folders half written included; nothing else is removed."""


class KeptWeights:
    """Of one run. Who writes there holds the run's lock."""

    def __init__(self, run_dir: Path) -> None:
        self.folder = run_dir / FOLDER

    def path(self, step: int) -> Path:
        """The Hugging Face folder of a step's weights, there or not."""
        return self.folder / f"step_{step:06d}"

    def write(
        self, step: int, tensors: HfTensors, *, architecture: Architecture, source: Path, dtype: torch.dtype
    ) -> str:
        """Keep the weights of a step; their fingerprint.

        Raises:
            StorageError: the disk has no room.
        """
        seen = Fingerprint(dtype)
        write_folder(self.path(step), seen.watch(tensors), architecture=architecture, source=source, dtype=dtype)
        return seen.hexdigest()

    def link(self, step: int, served: Path) -> str | None:
        """`write` for weights that servers load from a folder: hard links to its files, which cost no room.

        Nobody writes into a file that is there (`sync.disk`): whoever publishes makes new ones, and takes names away.

        Returns:
            The fingerprint; None where the file system has no links from there to here, and nothing is kept.
        """
        try:
            with new_folder(self.path(step), durable=False, replaces=True) as partial:
                for name in (*read_manifest(served), MANIFEST):
                    (partial / name).parent.mkdir(parents=True, exist_ok=True)
                    os.link(served / name, partial / name)
        except OSError:
            return None
        return fingerprint_of_folder(self.path(step))

    def has(self, subject: Subject) -> bool:
        """Whether the folder is whole, and holds these very weights."""
        path = self.path(subject.step or 0)
        return path.is_dir() and is_complete(path) and fingerprint_of_folder(path) == subject.weights

    def remove(self, step: int) -> None:
        """Those of a step, whose numbers are there."""
        shutil.rmtree(self.path(step), ignore_errors=True)

    def keep_only(self, steps: Iterable[int]) -> None:
        """Remove what a killed run has left of other steps: a resume comes to them again. An empty place goes, too."""
        kept = {self.path(step).name for step in steps}
        for path in self.folder.iterdir() if self.folder.is_dir() else ():
            if OWN.fullmatch(path.name) and path.name not in kept:
                shutil.rmtree(path, ignore_errors=True)
        with suppress(OSError):
            self.folder.rmdir()
