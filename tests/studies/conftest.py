"""A study small enough to run."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

TINY = {
    "rollout.prompts_per_step": 2,
    "evaluation.num_problems": 4,
    "evaluation.max_new_tokens": 40,
    "evaluation.temperatures": [1.0],
    "grading.num_workers": 1,
    "checkpoint.every": 1,
    "stages.compress.steps": 1,
    "stages.explore.steps": 1,
    "stages.compress.rollout.n": 2,
    "stages.explore.rollout": {"n": 2, "temperature": 1.0, "max_new_tokens": 60},
}


@pytest.fixture
def write_study(tmp_path: Path, root: Path) -> Callable[..., Path]:
    """Writes a study on the quickstart's configuration into a folder of the test."""

    def write(axes: dict[str, Any] | None = None, **fields: Any) -> Path:
        study = {
            "dir": "study",
            "configs": [str(root / "configs/quickstart.yaml")],
            "set": TINY,
            "seeds": [1],
            "axes": axes or {"clip": {"long": {}, "short": {"set": {"stages.compress.clip_len": 40}}}},
        }
        path = tmp_path / "small.yaml"
        path.write_text(yaml.safe_dump(study | fields, sort_keys=False))
        return path

    return write
