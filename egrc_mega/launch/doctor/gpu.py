"""GPUs, their driver, and the libraries that talk to them, of both environments."""

import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

from egrc_mega.launch.doctor.finding import Finding, fail, ok, warn

QUERY_S = 30.0
OLDEST_DRIVER = {11: (450, 80), 12: (525, 60), 13: (580, 65)}
"""Major version of CUDA -> the oldest Linux driver that runs it (CUDA Toolkit release notes, "CUDA minor version
compatibility")."""


@dataclass(frozen=True, slots=True)
class Driver:
    """What the driver says of itself."""

    version: str | None = None
    """None: there is none, or it does not answer."""
    devices: tuple[str, ...] = ()
    """Name and memory of each."""
    trouble: str = ""
    """Why it does not answer."""


@dataclass(frozen=True, slots=True)
class Torch:
    """What torch says of CUDA."""

    cuda: str | None = None
    """The CUDA that it was built for; None: a CPU build."""
    num_devices: int = 0
    """That it can use."""


def look_for_driver() -> Driver:
    """Ask the driver's own tool."""
    tool = shutil.which("nvidia-smi")
    if tool is None:
        return Driver()
    command = [tool, "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader"]
    try:
        said = subprocess.run(command, capture_output=True, text=True, timeout=QUERY_S)
    except (OSError, subprocess.TimeoutExpired) as error:
        return Driver(trouble=f"nvidia-smi does not answer: {error}")
    rows = [row.split(", ") for row in said.stdout.splitlines() if row.count(", ") == 2]
    if said.returncode or not rows:
        return Driver(trouble=f"nvidia-smi says: {(said.stdout or said.stderr).strip()[:200]}")
    return Driver(rows[0][2], tuple(f"{name} ({memory})" for name, memory, _ in rows))


def look_at_torch() -> Torch:
    """Ask torch what it can use."""
    import torch

    return Torch(torch.version.cuda, torch.cuda.device_count() if torch.cuda.is_available() else 0)


def gpu_findings(driver: Driver, torch: Torch, *, wants_gpu: bool) -> Iterator[Finding]:
    """What is found of devices and driver.

    Args:
        wants_gpu: a configuration says so.
    """
    if driver.trouble:
        yield fail("driver", driver.trouble, "load the driver that belongs to the kernel, or reboot; see dmesg")
        return
    if driver.version is None:
        found = "no NVIDIA driver: the policy trains on the CPU with gloo, rollouts run on CPU servers"
        fix = "install the driver, or set rollout.device: cpu; in a container start it with --gpus all"
        yield fail("gpu", found, fix) if wants_gpu else ok("gpu", found)
        return
    devices = f"{len(driver.devices)} x {', '.join(dict.fromkeys(driver.devices))}"
    if torch.cuda is None:
        yield fail("gpu", f"{devices}, but this torch has no CUDA", "install torch's CUDA wheel")
        return
    oldest = OLDEST_DRIVER.get(int(torch.cuda.partition(".")[0]), (0, 0))
    if _numbers(driver.version) < oldest:
        needs = f"update it to {'.'.join(map(str, oldest))} or newer, or install a torch for an older CUDA"
        yield fail("driver", f"{driver.version} is too old for torch's CUDA {torch.cuda}", needs)
    else:
        yield ok("driver", f"{driver.version}, torch's CUDA is {torch.cuda}")
    if torch.num_devices < len(driver.devices):
        fix = "see CUDA_VISIBLE_DEVICES, and whether another process or MIG holds the others"
        verdict = warn if torch.num_devices else fail
        yield verdict("gpu", f"{devices}, of which torch can use {torch.num_devices}", fix)
    else:
        yield ok("gpu", f"{devices}: the policy trains with NCCL")


def nccl_finding(ours: str, theirs: str | None, has_gpu: bool) -> Finding:
    """NCCL of the trainer's environment and of the servers'. A group of two versions does not come up.

    Args:
        ours: version of the package; empty: none is installed, and torch uses the system's, if any.
        theirs: likewise; None: there is no such environment.
    """
    found = f"trainer's {ours or 'none of its own'}"
    if theirs is not None:
        found += f", servers' {theirs or 'none of their own'}"
    if ours and theirs and ours != theirs:
        fix = "pip install --no-deps the servers' nvidia-nccl into the trainer's environment, or sync.transport: disk"
        return fail("nccl", found, fix)
    if has_gpu and not ours:
        return warn("nccl", found, "torch's CUDA wheel brings it: install that")
    return ok("nccl", found)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(part) for part in version.split(".") if part.isdigit())
