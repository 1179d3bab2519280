"""Megatron-core's sharded writer, kept inside the trainer's own process.

megatron writes each file from a process that it forks, and waits for it through a queue that counts acknowledgements. A
trainer that is killed meanwhile leaves those processes waiting for ever for the acknowledgement of a dead parent, with
copies of everything it had open: the pipes by which servers notice its end, for one. Threads end with their process,
whoever kills it, and write as fast: writing and hashing release the interpreter's lock.
"""

import queue
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch.distributed as dist
from megatron.core import dist_checkpointing
from megatron.core.dist_checkpointing.strategies import filesystem_async
from megatron.core.dist_checkpointing.strategies.filesystem_async import FileSystemWriterAsync
from torch.distributed.checkpoint.api import CheckpointException

from egrc_mega.errors import CheckpointError, RelayedError


def write_shards(state: dict[str, Any], folder: Path) -> None:
    """Write a sharded state into an empty folder, in megatron's format (collective); no process is started for it.

    Raises:
        CheckpointError: on rank 0, when any rank could not write, for instance because the disk is full.
        RelayedError: on the other ranks then.
    """
    # megatron would start a manager process for this queue, which outlives a killed trainer and costs two seconds; a
    # synchronous save fills and empties the queue in this very process
    filesystem_async._results_queue = queue.Queue()
    FileSystemWriterAsync.write_preloaded_data_multiproc = staticmethod(_write_in_threads)
    try:
        dist_checkpointing.save(state, str(folder))
    except CheckpointException as error:
        if dist.get_rank() != 0:
            raise RelayedError("rank 0 says why no checkpoint was written", CheckpointError.exit_code) from error
        rank, (cause, _traceback) = next(iter(error.failures.items()))
        reason = str(cause).splitlines()[0]
        raise CheckpointError(
            f"{folder} cannot be written by rank {rank}: {reason}; see that its file system has room and can be "
            f"written, then continue with --resume"
        ) from error


def _write_in_threads(
    transforms: list[Any], _use_msc: bool, _rank: int, buckets: list[Any], results: "queue.Queue[Any]"
) -> None:
    """In place of megatron's `write_preloaded_data_multiproc`: a thread for each file, and then one result for all.

    The result is a list of write results for each bucket, or the error of the first bucket that has failed.
    """
    outcomes: queue.Queue[Any] = queue.Queue()
    unfinished: queue.Queue[int] = queue.Queue()
    with ThreadPoolExecutor(max(1, len(buckets))) as pool:
        for number, bucket in enumerate(buckets):
            unfinished.put(number)
            pool.submit(
                FileSystemWriterAsync.write_preloaded_data, transforms, number, bucket, outcomes, unfinished, True
            )
    written = dict(outcomes.get_nowait() for _ in buckets)
    errors = [outcome for outcome in written.values() if isinstance(outcome, Exception)]
    results.put(errors[0] if errors else written)
