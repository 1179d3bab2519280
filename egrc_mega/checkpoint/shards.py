"""The tensors of all ranks in megatron-core's sharded format: planned together, then written by each rank alone.

megatron's own writer forks processes, which outlive a killed trainer, and writes what only rank 0 can hash, by reading
it again. Here megatron plans, and what it would write is written by threads that hash while they write. Threads end
with their process, whoever kills it; writing and hashing release the interpreter's lock. Once a state is staged nothing
of the writing is collective, so a thread may do it while the training goes on.
"""

import io
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from megatron.core.dist_checkpointing.state_dict_utils import save_preprocess
from megatron.core.dist_checkpointing.strategies.filesystem_async import _split_by_size_and_type
from megatron.core.dist_checkpointing.strategies.state_dict_saver import save_state_dict_async_plan
from megatron.core.dist_checkpointing.strategies.torch import (
    MCoreSavePlanner,
    _replace_state_dict_keys_with_sharded_keys,
    mcore_to_pyt_state_dict,
)
from torch.distributed.checkpoint.filesystem import _StorageInfo
from torch.distributed.checkpoint.metadata import Metadata, MetadataIndex
from torch.distributed.checkpoint.planner import SavePlan, WriteItem, WriteItemType
from torch.distributed.checkpoint.storage import WriteResult

from egrc_mega.checkpoint.host_copy import HostCopy
from egrc_mega.convert.archive import save_value, without_checksums
from egrc_mega.faults import fault_point
from egrc_mega.manifest import FileEntry, HashedWriter

NUM_FILES = 2
"""Of each rank; they are written and hashed side by side."""

Item = tuple[WriteItem, torch.Tensor | io.BytesIO]


@dataclass(frozen=True, slots=True)
class Staged:
    """What a rank is going to write."""

    files: dict[str, list[Item]]
    common: bytes
    """What is the same on all ranks, as `common.pt` will hold it."""
    metadata: Metadata | None
    """Of all ranks' tensors; on rank 0 only."""

    @property
    def size_bytes(self) -> int:
        """About what this rank writes."""
        items = [data for items in self.files.values() for _item, data in items]
        return sum(data.nbytes if isinstance(data, torch.Tensor) else data.getbuffer().nbytes for data in items)


@dataclass(frozen=True, slots=True)
class Written:
    """What a rank has written: where each tensor lies, and the manifest's entries."""

    results: list[WriteResult]
    entries: dict[str, FileEntry]

    def packed(self) -> list[Any]:
        """As JSON, for rank 0."""
        places = [(r.index.fqn, r.index.offset, r.index.index, r.storage_data) for r in self.results]
        rows = [(name, offset, index, s.relative_path, s.offset, s.length) for name, offset, index, s in places]
        return [rows, self.entries]

    @classmethod
    def unpacked(cls, packed: list[Any]) -> "Written":
        """Make it again of what `packed` has sent to rank 0."""
        rows, entries = packed
        results = [
            WriteResult(MetadataIndex(name, offset, index), length, _StorageInfo(path, begin, length))
            for name, offset, index, path, begin, length in rows
        ]
        return cls(results, entries)


def plan_shards(state: dict[str, Any]) -> Staged:
    """Agree with the other ranks on who writes what (collective). The tensors are the state's own."""
    sharded, common = save_preprocess(state)
    by_key, _places, _names = _replace_state_dict_keys_with_sharded_keys(sharded, keep_only_main_replica=True)
    collector = _Collector()
    planner = MCoreSavePlanner(dedup_replicated_tensors=False, flatten_state_dict=False)
    pytorch_state = mcore_to_pyt_state_dict(by_key, is_loading=False)
    (_writer, metadata, _ranks), *_plans = save_state_dict_async_plan(pytorch_state, collector, None, 0, planner)
    packed = io.BytesIO()
    torch.save(common, packed)
    return Staged(collector.files, packed.getvalue(), metadata)


def copied_to_host(staged: Staged, room: HostCopy) -> Staged:
    """The same with copies of all tensors, so that the state may change while they are written."""
    tensors = [data for items in staged.files.values() for _item, data in items if isinstance(data, torch.Tensor)]
    copies = iter(room.copies(tensors))
    files = {
        # what is no tensor is packed anew for every save
        name: [(item, next(copies) if isinstance(data, torch.Tensor) else data) for item, data in items]
        for name, items in staged.files.items()
    }
    return Staged(files, staged.common, staged.metadata)


def write_shards(staged: Staged, folder: Path, step: int) -> Written:
    """Write this rank's files into an existing folder, synced to disk.

    Raises:
        OSError: what the operating system said about the first file that could not be written.
    """
    with without_checksums(), ThreadPoolExecutor(NUM_FILES) as pool:
        jobs = [pool.submit(_write_file, folder / name, items, step) for name, items in staged.files.items()]
    written = [job.result() for job in jobs]
    entries = dict(zip(staged.files, (entry for _results, entry in written), strict=True))
    return Written([result for results, _entry in written for result in results], entries)


class _Collector:
    """In place of megatron's writer: takes the items that a rank is to write."""

    can_run_decentralized_global_plan = True

    def __init__(self) -> None:
        self.files: dict[str, list[Item]] = {}

    def set_up_storage_writer(self, is_coordinator: bool) -> None:
        """Nothing is opened yet."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return plan

    def prepare_decentralized_global_plan(self, plan: SavePlan) -> SavePlan:
        """The plan as it is: a rank's files are named after the rank."""
        return plan

    def prepare_write_data(self, plan: SavePlan, planner: MCoreSavePlanner) -> None:
        """Take the items, spread over files of nearly the same size."""
        buckets = [bucket for bucket in _split_by_size_and_type(NUM_FILES, plan.items) if bucket]
        for number, bucket in enumerate(buckets):
            items = [(item, planner.resolve_data(item)) for item in bucket]
            self.files[f"__{dist.get_rank()}_{number}.distcp"] = items


def _write_file(path: Path, items: list[Item], step: int) -> tuple[list[WriteResult], FileEntry]:
    results = []
    try:
        with HashedWriter(path, durable=True) as writer:
            for item, data in items:
                begin = writer.size_bytes
                _write_item(item, data, writer)
                length = writer.size_bytes - begin
                place = _StorageInfo(path.name, begin, length)
                results.append(WriteResult(index=item.index, size_in_bytes=length, storage_data=place))
                writer.mark(item.index.fqn)
            entry = writer.finish()
        fault_point("checkpoint.shard", step)
    except OSError as error:
        error.filename = error.filename or str(path)  # a write knows its file only by number
        raise
    return results, entry


def _write_item(item: WriteItem, data: torch.Tensor | io.BytesIO, writer: HashedWriter) -> None:
    if item.type == WriteItemType.BYTE_IO:
        assert isinstance(data, io.BytesIO)
        writer.write(data.getbuffer())
        return
    assert isinstance(data, torch.Tensor)
    save_value(data.detach().cpu(), writer)
