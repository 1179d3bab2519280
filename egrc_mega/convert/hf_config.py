"""Reads config.json into one record, as transformers reads it: every value with the place it comes from.

What is absent is the family's default in transformers. Two statements that differ are a problem, and so is a field that
nobody here has understood: it may change the computation. Nothing of transformers is needed, and no code of the
folder is run: `trust_remote_code` has no counterpart here.
"""

import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any, TypeGuard

from egrc_mega.convert.family import Statement
from egrc_mega.convert.known_fields import FALSE_ONLY, HARMLESS, NULL_ONLY
from egrc_mega.errors import ModelError
from egrc_mega.json_file import read_object

ABSENT = "transformers' default"
"""The origin of what config.json does not state."""
MAX_SIZE = 2**24
"""Beyond every model; a config.json that says more would keep the machine busy with nothing."""
DTYPES = ("float32", "float16", "bfloat16")


class HfConfig:
    """The fields of a config.json. Problems are gathered and raised together by `check`."""

    def __init__(self, fields: dict[str, Any], path: Path | str = "config.json") -> None:
        self.fields, self.path = fields, path
        self.problems: list[str] = []
        self.record: dict[str, Statement] = {}
        """What has been read so far, by the names of config.json."""

    @classmethod
    def read(cls, folder: Path) -> "HfConfig":
        """The config.json of a folder.

        Raises:
            ModelError: missing or not a JSON object.
        """
        path = folder / "config.json"
        try:
            return cls(read_object(path), path)
        except (OSError, ValueError) as error:
            problem = getattr(error, "strerror", None) or error
            raise ModelError(f"model.path: cannot read {path}: {problem}; give a Hugging Face model folder") from error

    def note(self, name: str, value: Any, origin: str) -> Any:
        """Put a value on the record; returns it."""
        self.record[name] = Statement(value, origin)
        return value

    def size(
        self, name: str, *aliases: str, default: int | None = None, null: int | None = None, most: int = MAX_SIZE
    ) -> int:
        """A positive whole number of at most `most`, under its name or another that transformers knows.

        Args:
            default: what transformers takes where it is absent; None: it must be stated.
            null: what transformers takes for null; None: null is refused, as transformers refuses it.
        """
        stated = [other for other in (name, *aliases) if other in self.fields]
        values = [self.fields[other] for other in stated]
        if any(value != values[0] for value in values):
            self.problems.append(" and ".join(f"{o} is {self.fields[o]!r}" for o in stated) + "; state it once")
        value = values[0] if stated else default
        if stated and value is None:
            value = null
        if isinstance(value, int) and not isinstance(value, bool) and 0 < value <= most:
            return int(self.note(name, value, stated[0] if stated else ABSENT))
        self.problems.append(f"{name} is {value!r:.80}, must be a positive whole number of at most {most}")
        return 1

    def flag(self, name: str, *, default: bool) -> bool:
        """True or false; transformers takes nothing else, null included."""
        value = self.fields.get(name, default)
        if not isinstance(value, bool):
            self.problems.append(f"{name} is {value!r:.80}, must be true or false")
            return default
        return bool(self.note(name, value, name if name in self.fields else ABSENT))

    def positive(self, name: str, *, default: float) -> float:
        """A positive number with a decimal point; transformers refuses whole numbers and texts here."""
        value = self.fields.get(name, default)
        if not isinstance(value, float) or not 0 < value < math.inf:
            self.problems.append(f"{name} is {value!r:.80}, must be a positive number such as {default}")
            return default
        return float(self.note(name, value, name if name in self.fields else ABSENT))

    def require(self, *, may_be_null: Iterable[str] = (), **expected: Any) -> None:
        """Fields that must be absent or as given: the table expresses nothing else."""
        for name, value in expected.items():
            if name not in self.fields or (self.fields[name] is None and name in may_be_null):
                self.note(name, value, ABSENT)
            elif self.fields[name] != value or isinstance(self.fields[name], bool) != isinstance(value, bool):
                self.problems.append(
                    f"{name} is {self.fields[name]!r:.80}, this family's table expresses only {value!r}"
                )
            else:
                self.note(name, value, name)

    def token_ids(self, name: str, default: int | None = None) -> tuple[int, ...]:
        """Ids that are stated as one number, as a list of them or as null."""
        value = self.fields.get(name, default)
        ids = value if isinstance(value, list) else [] if value is None else [value]
        if any(not isinstance(i, int) or isinstance(i, bool) for i in ids):
            self.problems.append(f"{name} is {value!r:.80}, must be a whole number, a list of them, or null")
            return ()
        return tuple(self.note(name, tuple(sorted(set(ids))), name if name in self.fields else ABSENT))

    def dtype(self) -> str | None:
        """The dtype of the weights, under its new or its old name; None where neither states one."""
        stated = {name: self.fields[name] for name in ("dtype", "torch_dtype") if self.fields.get(name) is not None}
        for name, value in stated.items():
            if value not in DTYPES:
                self.problems.append(f"{name} is {value!r:.80}, known are {', '.join(DTYPES)}")
        if len(stated) == 2 and stated["dtype"] != stated["torch_dtype"]:
            self.problems.append(
                f"dtype is {stated['dtype']!r}, torch_dtype is {stated['torch_dtype']!r}; state the weights' once"
            )
        for name, value in stated.items():
            return str(self.note("dtype", value, name))
        return None

    def check_fields(self, known: Iterable[str]) -> None:
        """Refuse every field that may change the computation and is neither of the family's nor harmless."""
        for name, value in self.fields.items():
            if value is None or name in known or name in HARMLESS or name in self.record:
                continue
            if name in NULL_ONLY:
                self.problems.append(f"{name} is there: {NULL_ONLY[name]}")
            elif name in FALSE_ONLY and not value:
                continue
            else:
                self.problems.append(
                    f"{name} is {value!r:.80}, which is not understood: it may change what the model computes; "
                    f"delete it where it does not"
                )

    def check(self) -> None:
        """Raise what has been gathered.

        Raises:
            ModelError: one line for each problem.
        """
        if self.problems:
            raise ModelError("\n".join(f"{self.path}: {problem}" for problem in self.problems))


def is_positive(value: Any) -> bool:
    """Whether a value of JSON is a finite number above zero."""
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 < value < math.inf


def is_whole(value: Any) -> TypeGuard[int]:
    """Whether a value of JSON is a whole number."""
    return isinstance(value, int) and not isinstance(value, bool)
