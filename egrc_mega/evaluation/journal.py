"""The responses that an evaluation has got so far, a line each: what a killed evaluation need not ask for again.

`responses/NAME.jsonl` is also a file that `egrc eval --responses` reads.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Self

import orjson

from egrc_mega.errors import RunError

SHOWN_DIGITS = 12


class Journal:
    """Use as a context manager: it holds the file open. `done` says which samples are there."""

    def __init__(self, path: Path, protocol: str) -> None:
        """Read what is there; a last line that a kill has torn is dropped.

        Args:
            protocol: hash of the prompts and the sampling; each line has it.

        Raises:
            RunError: the file has responses of another protocol.
        """
        self.path, self.protocol = path, protocol
        self.done: set[tuple[str, int]] = set()
        """Problem and number of each sample that the file has."""
        path.parent.mkdir(parents=True, exist_ok=True)
        whole = self._read() if path.exists() else 0
        self._file: IO[bytes] = path.open("ab")
        self._file.truncate(whole)

    def _read(self) -> int:
        """Note what is done; returns how many bytes of the file are whole lines."""
        whole = 0
        with self.path.open("rb") as file:
            for line in file:
                try:
                    fields = orjson.loads(line)
                    key = fields["problem_id"], fields["sample"]
                    protocol = fields["protocol"]
                except (orjson.JSONDecodeError, KeyError, TypeError) as error:
                    if file.read(1):
                        raise RunError(f"{self.path} is broken in the middle; move it aside") from error
                    break
                if protocol != self.protocol:
                    raise RunError(
                        f"{self.path} has responses of the protocol {protocol[:SHOWN_DIGITS]}, and this is "
                        f"{self.protocol[:SHOWN_DIGITS]}: other prompts, sampling settings or weights; give another "
                        f"--out, or move the file aside"
                    )
                if not line.endswith(b"\n"):
                    break
                self.done.add(key)
                whole += len(line)
        return whole

    def add(self, lines: Sequence[Mapping[str, Any]]) -> None:
        """Append responses and hand them to the operating system, so that a kill of this process loses none."""
        for line in lines:
            # half a character cannot be written; the grader needs none
            text = str(line["response"]).encode(errors="replace").decode()
            self._file.write(orjson.dumps({**line, "response": text, "protocol": self.protocol}) + b"\n")
            self.done.add((line["problem_id"], line["sample"]))
        self._file.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._file.close()
