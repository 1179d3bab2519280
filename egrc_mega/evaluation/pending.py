"""The responses of a measurement under way, a line each: a run that was killed asks only for what is missing.

The file is named after weights and protocol, and goes once the measurement has its row in the table. It holds tokens,
which are judged again: a verdict depends on nothing else.
"""

from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import numpy as np
import orjson

from egrc_mega.evaluation.records import Protocol, Subject
from egrc_mega.types import Completion, FinishReason, VersionSpan, token_array

FOLDER = "evaluation_pending"
NAME_DIGITS = 16


class Pending:
    """Use as a context manager: left without an error, it removes the file. `completions` has what is there, by rid."""

    def __init__(self, folder: Path, subject: Subject, protocol: Protocol) -> None:
        """Read what an interrupted measurement has left; a last line that a kill has torn is dropped."""
        name = f"{subject.weights[:NAME_DIGITS]}-{protocol.key[:NAME_DIGITS]}.jsonl".replace("/", "_")
        self.path = folder / FOLDER / name
        self.completions: dict[str, Completion] = {}
        self.path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if self.path.exists() else 0
        self._file: IO[bytes] = self.path.open("ab")
        self._file.truncate(whole)

    def _read(self) -> int:
        """Note what is there; returns how many bytes are whole lines."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    found = _completion(orjson.loads(line))
                except (orjson.JSONDecodeError, KeyError, TypeError, ValueError):
                    break
                if not line.endswith(b"\n"):
                    break
                self.completions[found.rid] = found
                whole += len(line)
        return whole

    def add(self, completions: Sequence[Completion]) -> None:
        """Append responses and hand them to the operating system, so that a kill of this process loses none."""
        for one in completions:
            line = {"rid": one.rid, "output_ids": one.output_ids.tolist(), "finish_reason": one.finish_reason.value}
            self._file.write(orjson.dumps(line) + b"\n")
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
        if error is None:
            self.path.unlink(missing_ok=True)


def _completion(fields: dict[str, Any]) -> Completion:
    """What an evaluation looks at; who wrote which token, and how likely it was, it does not."""
    ids = token_array(fields["output_ids"])
    return Completion(
        rid=fields["rid"],
        output_ids=ids,
        logprobs=np.zeros(len(ids), np.float32),
        sampled=np.ones(len(ids), np.bool_),
        finish_reason=FinishReason(fields["finish_reason"]),
        weight_versions=(VersionSpan(version="", start=0, end=len(ids)),),
    )
