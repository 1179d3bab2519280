"""Reads config.json: sizes that must be there, settings that a table cannot express, the two ways rope is told.

Nothing of transformers is needed, and no code of the folder is run: `trust_remote_code` has no counterpart here.
"""

import json
from pathlib import Path
from typing import Any

from egrc_mega.errors import ModelError


class HfConfig:
    """The fields of a config.json. Problems are gathered and raised together by `check`."""

    def __init__(self, fields: dict[str, Any], path: Path | str = "config.json") -> None:
        self.fields, self.path = fields, path
        self.problems: list[str] = []

    @classmethod
    def read(cls, folder: Path) -> "HfConfig":
        """The config.json of a folder.

        Raises:
            ModelError: missing or not a JSON object.
        """
        path = folder / "config.json"
        try:
            fields = json.loads(path.read_text())
        except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ModelError(f"model.path: cannot read {path}: {error}; give a Hugging Face model folder") from error
        if not isinstance(fields, dict):
            raise ModelError(f"{path}: holds no JSON object; give a Hugging Face model folder")
        return cls(fields, path)

    def size(self, *names: str, default: int | None = None) -> int:
        """A positive whole number, under the first of `names` that is there."""
        value = next((self.fields[name] for name in names if self.fields.get(name) is not None), default)
        if isinstance(value, int) and not isinstance(value, bool) and value > 0:
            return value
        self.problems.append(f"{names[0]} is {value!r}, must be a positive whole number")
        return 1

    def require(self, **expected: Any) -> None:
        """Fields that must be absent, null or as given: the table expresses nothing else."""
        for name, value in expected.items():
            found = self.fields.get(name)
            if found is not None and found != value:
                self.problems.append(f"{name} is {found!r}, this family's table expresses only {value!r}")

    @property
    def rope(self) -> dict[str, Any]:
        """Rope's settings whichever way they are told: `rope_parameters`, or `rope_theta` and `rope_scaling`."""
        told = self.fields.get("rope_parameters") or self.fields.get("rope_scaling") or {}
        theta = self.fields.get("rope_theta") or told.get("rope_theta") or 10000.0
        return told | {"rope_theta": theta, "rope_type": told.get("rope_type") or told.get("type") or "default"}

    def require_plain_rope(self) -> None:
        """Refuse every scaling of rope."""
        if self.rope["rope_type"] != "default":
            self.problems.append(f"rope type is {self.rope['rope_type']!r}, megatron-core has no such rope")

    def check(self) -> None:
        """Raise what has been gathered.

        Raises:
            ModelError: one line for each problem.
        """
        if self.problems:
            raise ModelError("\n".join(f"{self.path}: {problem}" for problem in self.problems))
