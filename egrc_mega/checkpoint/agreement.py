"""What several ranks do together: all of them know whether it has worked on every one of them.

The ranks talk over a gloo group of their own, so a thread may save while the training goes on over the others. What
they exchange is JSON.
"""

import datetime
import json
from collections.abc import Callable
from typing import Any, TypeVar

import torch
import torch.distributed as dist

from egrc_mega.errors import CheckpointError, EgrcError, RelayedError

T = TypeVar("T")


class Ranks:
    """All ranks of the run. Every method is collective, and called in the same order everywhere."""

    def __init__(self, timeout_s: float) -> None:
        """`timeout_s`: longest that a rank waits for the others at one place."""
        is_alone = not dist.is_initialized()  # a command that looks at a run's checkpoints
        self.rank, self.count = (0, 1) if is_alone else (dist.get_rank(), dist.get_world_size())
        self.timeout_s = timeout_s
        wait = datetime.timedelta(seconds=timeout_s)
        self._group = dist.new_group(backend="gloo", timeout=wait) if self.count > 1 else None

    def on_all(self, do: Callable[[], T], task: str) -> list[T]:
        """Have every rank do its part; the parts' results, as JSON has them, in order, on rank 0 (nowhere else).

        Args:
            task: completes the sentence "<task> by rank 1: No space left on device".

        Raises:
            CheckpointError: on rank 0, when it failed anywhere; `RelayedError` on all others then.
        """
        value, reason = _attempt(do)
        if self.count == 1:
            found: list[Any] = [(value, reason)]
        else:
            found = self._gather((value, reason))
        failed = [(rank, text) for rank, (_value, text) in enumerate(found) if text] if self.rank == 0 else []
        self._raise_everywhere(f"{task} by rank {failed[0][0]}: {failed[0][1]}" if failed else None)
        return [value for value, _reason in found] if self.rank == 0 else []

    def on_rank_0(self, do: Callable[[], T], task: str) -> T:
        """Have rank 0 do it, and tell every rank the result, as JSON has it; raises as `on_all`."""
        value, reason = _attempt(do) if self.rank == 0 else (None, None)
        self._raise_everywhere(f"{task} by rank 0: {reason}" if reason else None)
        return self._from_rank_0(value)

    def _raise_everywhere(self, message: str | None) -> None:
        """Raise on every rank what rank 0 has found."""
        found = self._from_rank_0(message)
        if found and self.rank == 0:
            raise CheckpointError(found)
        if found:
            raise RelayedError(found, CheckpointError.exit_code)

    def _gather(self, value: Any) -> list[Any]:
        """Every rank's value, on rank 0."""
        own = _packed(value)
        try:
            sizes = [torch.empty(1, dtype=torch.int64) for _ in range(self.count)]
            dist.all_gather(sizes, torch.tensor([len(own)]), group=self._group)
            room = int(max(sizes))
            padded = torch.nn.functional.pad(own, (0, room - len(own)))
            parts = [torch.empty_like(padded) for _ in sizes] if self.rank == 0 else None
            dist.gather(padded, parts, group=self._group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return [_unpacked(part[: int(size)]) for part, size in zip(parts or [], sizes, strict=False)]

    def _from_rank_0(self, value: Any) -> Any:
        if self.count == 1:
            return value
        packed = _packed(value)
        size = torch.tensor([len(packed)])
        try:
            dist.broadcast(size, 0, group=self._group)
            packed = packed if self.rank == 0 else torch.empty(int(size), dtype=torch.uint8)
            dist.broadcast(packed, 0, group=self._group)
        except RuntimeError as error:
            raise self._lost(error) from error
        return _unpacked(packed)

    def _lost(self, error: RuntimeError) -> CheckpointError:
        return CheckpointError(
            f"the ranks lost each other over a checkpoint (waited at most {self.timeout_s:g} s, checkpoint.timeout_s): "
            f"{str(error).splitlines()[0]}; see why a rank has ended, then continue with --resume"
        )


def _packed(value: Any) -> torch.Tensor:
    return torch.frombuffer(bytearray(json.dumps(value).encode()), dtype=torch.uint8)


def _unpacked(packed: torch.Tensor) -> Any:
    return json.loads(packed.numpy().tobytes())


def _attempt(do: Callable[[], T]) -> tuple[Any, str | None]:
    """The result, or in one line why there is none."""
    try:
        return do(), None
    except OSError as error:
        place = f" ({error.filename})" if error.filename else ""
        return None, f"{error.strerror or error}{place}"
    except EgrcError as error:
        return None, str(error)
    except Exception as error:  # a rank that keeps silent leaves the others waiting
        lines = str(error).splitlines() or [""]
        return None, f"{type(error).__name__}: {lines[0]}"
