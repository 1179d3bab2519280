"""Process groups: one world from torchrun's environment (or a world of one), split by megatron-core."""

import datetime
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
import torch.distributed as dist

if not torch.cuda.is_available():
    from egrc_mega.policy import cpu_backend

    cpu_backend.install()

from megatron.core import parallel_state
from megatron.core.tensor_parallel.random import initialize_rng_tracker

from egrc_mega.errors import ConfigError, RelayedError
from egrc_mega.observe.pulse import PULSE
from egrc_mega.observe.spans import span
from egrc_mega.sections.policy import MegatronSection

_lead_group: dist.ProcessGroup | None = None
"""Where ranks wait for rank 0's part: gloo on any device, with a deadline of its own. None: a world of one."""
_lead_timeout_s: float | None = None
LEAD_FIELD = "run.lead_timeout_s"
"""The setting that this deadline comes from."""
REPORT_S = 60.0
"""Beyond the deadlines of groups where a hang is watched for: time for its report before torch ends what waits."""


def initialize(
    section: MegatronSection, timeout_s: float, lead_timeout_s: float | None = None, *, is_watched: bool = False
) -> None:
    """Join the world and build megatron's groups; NCCL where CUDA is, gloo elsewhere.

    Args:
        timeout_s: deadline of a collective between devices.
        lead_timeout_s: longest that ranks wait for rank 0's part of a step; None: as long as for a collective.
        is_watched: a watch (`observe.hangs`) ends what waits for longer; torch's own deadlines then come later.

    Raises:
        ConfigError: the world's size is no multiple of tensor x pipeline parallel size.
    """
    layer_size = section.tensor_model_parallel_size * section.pipeline_model_parallel_size
    model_size = layer_size * section.context_parallel_size
    experts_size = layer_size * section.expert_model_parallel_size
    world_size = int(os.environ.get("WORLD_SIZE", 1))
    if world_size % model_size:
        raise ConfigError(
            f"world size {world_size} is no multiple of tensor x pipeline x context parallel size {model_size}: "
            f"change --nproc-per-node or the megatron section"
        )
    if world_size % experts_size:
        raise ConfigError(
            f"megatron.expert_model_parallel_size: world size {world_size} is no multiple of tensor x pipeline x "
            f"expert parallel size {experts_size}"
        )
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    else:
        # measured on small machines: one thread is faster than two, and bitwise stable
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", "1")))
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    more_s = REPORT_S if is_watched else 0.0
    timeout = datetime.timedelta(seconds=timeout_s + more_s)
    if "RANK" in os.environ:
        dist.init_process_group(backend, timeout=timeout)
    else:
        dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    global _lead_group, _lead_timeout_s
    _lead_timeout_s = lead_timeout_s
    wait = datetime.timedelta(seconds=(lead_timeout_s or timeout_s) + more_s)
    _lead_group = dist.new_group(backend="gloo", timeout=wait) if world_size > 1 else None
    split_world(section, timeout_s + more_s)


@contextmanager
def world_of_one(section: MegatronSection, timeout_s: float = 600.0) -> Iterator[None]:
    """Process groups for this process alone; those that it has already, of one rank, are used and stay."""
    if dist.is_initialized():
        yield
        return
    initialize(section, timeout_s)
    try:
        yield
    finally:
        finalize()


def split_world(section: MegatronSection, timeout_s: float) -> None:
    """Build megatron's groups in a world that has none yet, or other ones."""
    # nothing in the model is random: there is no dropout, and weights come from checkpoints
    initialize_rng_tracker(inference_rng_tracker=True)
    parallel_state.destroy_model_parallel()
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=section.tensor_model_parallel_size,
        pipeline_model_parallel_size=section.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=section.virtual_pipeline_model_parallel_size,
        context_parallel_size=section.context_parallel_size,
        expert_model_parallel_size=section.expert_model_parallel_size,
        distributed_timeout_minutes=max(1, round(timeout_s / 60)),
    )


def finalize() -> None:
    """Leave the world of processes and its groups."""
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()


def rank() -> int:
    """This process's number in the world."""
    return dist.get_rank()


def size() -> int:
    """Number of processes in the world."""
    return dist.get_world_size()


def is_rank_0() -> bool:
    """True on the rank that talks to the world."""
    return dist.get_rank() == 0


def device() -> torch.device:
    """Where this rank's tensors live."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def on_rank_0(compute: Callable[[], bytes | None]) -> bytes:
    """Run `compute` on rank 0 and hand its bytes (none of them for None) to every rank. Collective.

    Raises:
        Exception: on rank 0 whatever `compute` raised.
        RelayedError: on the other ranks then, so that none waits for a rank that is gone.
    """
    if not is_rank_0():
        with span("wait", awaits="rank 0's part"), PULSE.awaiting("rank 0's part", _lead_timeout_s, LEAD_FIELD):
            answer = broadcast_bytes(None)
        if answer[0]:
            raise RelayedError("rank 0 has failed and said why", exit_code=answer[0])
        return answer[1:]
    try:
        with PULSE.awaiting("servers, graders or files", _lead_timeout_s, LEAD_FIELD):
            payload = compute() or b""
    except Exception as error:
        broadcast_bytes(bytes([getattr(error, "exit_code", 1)]))
        raise
    with PULSE.awaiting("the other ranks, who take rank 0's part", None, ""):
        return broadcast_bytes(bytes([0]) + payload)[1:]


def gather_texts(text: str, group: dist.ProcessGroup | None = None) -> list[str]:
    """Every rank's text, in order, on every rank. Collective; nothing is unpickled.

    Args:
        text: not empty.
        group: one between devices; None: all ranks, over gloo.
    """
    if group is None and dist.get_world_size() == 1:
        return [text]
    place = device() if group is not None else torch.device("cpu")
    own = torch.frombuffer(bytearray(text.encode()), dtype=torch.uint8).to(place)
    group = group or _lead_group
    sizes = [torch.zeros(1, dtype=torch.int64, device=place) for _ in range(dist.get_world_size(group))]
    dist.all_gather(sizes, torch.tensor([len(own)], device=place), group=group)
    longest = max(int(size) for size in sizes)
    found = [torch.empty(longest, dtype=torch.uint8, device=place) for _ in sizes]
    dist.all_gather(found, torch.nn.functional.pad(own, (0, longest - len(own))), group=group)
    return [each[: int(size)].cpu().numpy().tobytes().decode() for each, size in zip(found, sizes, strict=True)]


def broadcast_bytes(payload: bytes | None) -> bytes:
    """Rank 0's bytes on every rank. Collective; plain bytes, nothing is unpickled."""
    if dist.get_world_size() == 1:
        assert payload is not None
        return payload
    size = torch.tensor([len(payload) if payload is not None else 0], dtype=torch.int64)
    dist.broadcast(size, src=0, group=_lead_group)
    if payload is not None:
        buffer = torch.frombuffer(bytearray(payload), dtype=torch.uint8)
    else:
        buffer = torch.empty(int(size), dtype=torch.uint8)
    dist.broadcast(buffer, src=0, group=_lead_group)
    return buffer.numpy().tobytes()
