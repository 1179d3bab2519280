"""Disk, shared memory, limits and clock: what ends runs that are right in every other way."""

import ctypes
import os
import resource
import shutil
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from egrc_mega import open_files
from egrc_mega.launch.doctor.finding import Finding, fail, ok, warn

GIB = 2**30
LEAST_DISK_GIB, LITTLE_DISK_GIB = 1.0, 20.0
LEAST_SHARED_GIB, LITTLE_SHARED_GIB = 0.0625, 1.0
"""Docker gives a container 64 MiB unless told otherwise, which NCCL's and torch's buffers exceed."""
FEW_FILES = 4096
"""A batch of some thousand responses has as many connections."""
UNSYNCHRONISED = 5
"""What adjtimex answers of a clock that nobody disciplines (adjtimex(2), TIME_ERROR)."""
TOO_EARLY = 1_735_689_600.0
"""2025-01-01: this package did not exist."""


@dataclass(frozen=True, slots=True)
class System:
    """What was seen; bytes, None where the system does not say."""

    disk_path: Path
    disk_free: int
    disk_writable: bool
    shared_free: int | None
    memory: int
    memory_limit: int | None
    """Of the control group."""
    num_cores: int
    open_files: int
    """Hard limit; -1: none."""
    locked_memory: int
    """Hard limit; -1: none."""
    now: float
    clock_is_synchronised: bool | None


def look_at_system(folder: Path) -> System:
    """Of this machine; `folder` is where a run would write, or would be made."""
    there = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    shared = Path("/dev/shm")
    return System(
        disk_path=there,
        disk_free=shutil.disk_usage(there).free,
        disk_writable=os.access(there, os.W_OK),
        shared_free=shutil.disk_usage(shared).free if shared.exists() else None,
        memory=psutil.virtual_memory().total,
        memory_limit=_memory_limit(),
        num_cores=len(os.sched_getaffinity(0)),
        open_files=resource.getrlimit(resource.RLIMIT_NOFILE)[1],
        locked_memory=resource.getrlimit(resource.RLIMIT_MEMLOCK)[1],
        now=time.time(),
        clock_is_synchronised=_is_synchronised(),
    )


def system_findings(seen: System, *, has_gpu: bool) -> Iterator[Finding]:
    """Of all that was seen."""
    yield _memory(seen)
    yield _disk(seen)
    yield _shared(seen, has_gpu)
    yield _files(seen)
    if has_gpu:
        yield _locked(seen)
    yield _clock(seen)


def _memory(seen: System) -> Finding:
    own = min(seen.memory, seen.memory_limit or seen.memory)
    limit = f", of which this container may use {own / GIB:.1f}" if own < seen.memory else ""
    found = f"{seen.memory / GIB:.1f} GiB{limit}; {seen.num_cores} cores"
    return ok("memory", found) if own >= 4 * GIB else warn("memory", found, "the miniature needs 4 GiB; give it more")


def _disk(seen: System) -> Finding:
    free = f"{seen.disk_free / GIB:.1f} GiB free at {seen.disk_path}"
    if not seen.disk_writable:
        return fail("disk", f"{seen.disk_path} may not be written", "choose another run.dir, or mend its permissions")
    if seen.disk_free < LEAST_DISK_GIB * GIB:
        return fail("disk", free, "make room, or choose another run.dir; egrc plan says what checkpoints take")
    if seen.disk_free < LITTLE_DISK_GIB * GIB:
        return warn("disk", free, "a 7B checkpoint takes about 100 GiB: see checkpoint.keep_last and egrc plan")
    return ok("disk", free)


def _shared(seen: System, has_gpu: bool) -> Finding:
    name = "shared memory"
    if seen.shared_free is None:
        return warn(name, "there is no /dev/shm", "mount a tmpfs there: NCCL and torch need it")
    free = f"{seen.shared_free / GIB:.2f} GiB free in /dev/shm"
    fix = "docker run --shm-size=16g; in Kubernetes an emptyDir with medium: Memory at /dev/shm"
    if seen.shared_free <= LEAST_SHARED_GIB * GIB and has_gpu:
        return fail(name, free, fix)
    return warn(name, free, fix) if seen.shared_free < LITTLE_SHARED_GIB * GIB else ok(name, free)


def _files(seen: System) -> Finding:
    found = "no limit" if seen.open_files < 0 else f"at most {seen.open_files}"
    if 0 <= seen.open_files < open_files.NEEDED:
        return fail("open files", found, f"a run needs {open_files.NEEDED}: raise the hard limit (ulimit -Hn)")
    if 0 <= seen.open_files < FEW_FILES:
        return warn("open files", found, f"a large batch has more connections: ulimit -Hn {FEW_FILES} or above")
    return ok("open files", found)


def _locked(seen: System) -> Finding:
    if seen.locked_memory < 0:
        return ok("locked memory", "no limit")
    found = f"at most {seen.locked_memory / GIB:.2f} GiB"
    return warn("locked memory", found, "InfiniBand needs ulimit -Hl unlimited; docker run --ulimit memlock=-1")


def _clock(seen: System) -> Finding:
    shown = time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seen.now))
    if seen.now < TOO_EARLY:
        return fail("clock", f"{shown} is in the past", "set it: certificates and the order of logs depend on it")
    if seen.clock_is_synchronised is False:
        fix = "one of several hosts should run chronyd or systemd-timesyncd; in a container its host's counts"
        return warn("clock", f"{shown}, not synchronised", fix)
    return ok("clock", shown)


def _memory_limit() -> int | None:
    for path in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            return int(path.read_text())
        except (OSError, ValueError):  # no such control group, or `max`
            continue
    return None


def _is_synchronised() -> bool | None:
    """What the kernel says; None where it may not be asked."""
    try:
        libc = ctypes.CDLL(None, use_errno=True)
        state = libc.adjtimex(ctypes.create_string_buffer(1024))  # a struct timex whose modes are 0 changes nothing
    except (OSError, AttributeError):
        return None
    return None if state < 0 else state != UNSYNCHRONISED
