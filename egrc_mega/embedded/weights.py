"""New weights for the engine that arrive over a process group, as SGLang takes them: groups, a session, buckets."""

from collections.abc import Sequence

import torch
import torch.distributed as dist

from egrc_mega.embedded.engine import Engine, WeightUpdateError
from egrc_mega.embedded.tensors import hf_tensors
from egrc_mega.embedded.weight_bodies import BucketBody, GroupBody
from egrc_mega.sync import group

DEADLINE_S = 600.0
"""For one broadcast."""


class WeightReceiver:
    """The server's end of weight-update groups. `receive` runs in the engine's thread, the rest in any other."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.groups: dict[str, dist.ProcessGroup] = {}
        self.in_session = False

    def join(self, body: GroupBody) -> None:
        """Blocks until all members are there.

        Raises:
            WeightUpdateError: the group exists, is not of gloo, or somebody does not come.
        """
        name = body.group_name
        if name in self.groups or body.backend != "gloo":
            raise WeightUpdateError(f"group {name} exists already, or its backend {body.backend} is not gloo")
        try:
            store = group.find_store(body.master_address, body.master_port)
            self.groups[name] = group.join(store, body.rank_offset, body.world_size, name, "gloo", DEADLINE_S)
        except (RuntimeError, TimeoutError) as error:
            raise WeightUpdateError(f"Failed to join group {name}: {error}") from error

    def leave(self, name: str) -> None:
        """End the membership in a process group.

        Raises:
            WeightUpdateError: there is none.
        """
        if name not in self.groups:
            raise WeightUpdateError("The group to be destroyed does not exist.")
        group.leave(self.groups.pop(name))

    def begin(self) -> None:
        """Open the session that buckets need.

        Raises:
            WeightUpdateError: one is open.
        """
        if self.in_session:
            raise WeightUpdateError("a weight-update session is already open; call end_weight_update() first")
        self.in_session = True

    def end(self) -> None:
        """Close the session that is open.

        Raises:
            WeightUpdateError: none is open.
        """
        if not self.in_session:
            raise WeightUpdateError("no weight-update session is open; call begin_weight_update() first")
        self.in_session = False

    def receive(self, body: BucketBody) -> None:
        """Take one bucket, straight into the model where types allow.

        Raises:
            WeightUpdateError: outside a session, unknown group, names or shapes that are not the model's, or a broken
                broadcast; in that last case the model may be half old, half new, as it may be in SGLang.
        """
        if not self.in_session:
            raise WeightUpdateError(
                "update_weights_from_distributed must run between begin_weight_update() and end_weight_update()"
            )
        members = self.groups.get(body.group_name)
        if members is None:
            raise WeightUpdateError(f"Group {body.group_name} is not in {list(self.groups)}")
        targets = self._targets(body.names, body.shapes)
        dtypes = [getattr(torch, name) for name in body.dtypes]
        try:
            if body.load_format == "flattened_bucket":
                _receive_flat(members, targets, dtypes)
            else:
                _receive_each(members, targets, dtypes)
        except (RuntimeError, TimeoutError) as error:
            raise WeightUpdateError(f"Failed to receive weights: {error}") from error
        self.engine.version = body.weight_version or self.engine.version

    def _targets(self, names: Sequence[str], shapes: Sequence[list[int]]) -> list[torch.Tensor]:
        state = hf_tensors(self.engine.model)
        for name, shape in zip(names, shapes, strict=True):
            if name not in state or list(state[name].shape) != shape:
                known = f"the model has {tuple(state[name].shape)}" if name in state else "the model has no such tensor"
                raise WeightUpdateError(f"{name} is {tuple(shape)}, {known}")
        return [state[name] for name in names]


def _receive_each(members: dist.ProcessGroup, targets: list[torch.Tensor], dtypes: list[torch.dtype]) -> None:
    for target, dtype in zip(targets, dtypes, strict=True):
        if target.dtype == dtype and target.is_contiguous():
            group.broadcast(members, target)
        else:
            received = torch.empty(target.shape, dtype=dtype)
            group.broadcast(members, received)
            target.copy_(received)


def _receive_flat(members: dist.ProcessGroup, targets: list[torch.Tensor], dtypes: list[torch.dtype]) -> None:
    sizes = [target.numel() * dtype.itemsize for target, dtype in zip(targets, dtypes, strict=True)]
    flat = torch.empty(sum(sizes), dtype=torch.uint8)
    group.broadcast(members, flat)
    for target, dtype, part in zip(targets, dtypes, flat.split(sizes), strict=True):
        target.copy_(part.view(dtype).view(target.shape))
