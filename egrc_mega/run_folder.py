"""The folder of a run: its files, and the claim that keeps a second run out."""

import json
import os
import platform
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import yaml

from egrc_mega import __version__
from egrc_mega.errors import DISK_ERRORS, RunError
from egrc_mega.lock import Lock, holder_of

RECORDED_PACKAGES = (
    "torch",
    "megatron-core",
    "transformers",
    "safetensors",
    "math-verify",
    "aiohttp",
    "numpy",
    "triton",
    "transformer-engine",
    "apex",
)


LOCK = ".lock"
STOP = "stop"
"""A file that asks the run to end after the step under way; `egrc stop` writes it, from any machine with the folder."""
SUPERVISED = "EGRC_SUPERVISED"
"""Variable of a supervisor's attempts: what was asked of an earlier one of them is asked of the next, too."""
REPORT = "report.html"
"""The page of a run."""
LOG = "run.log"
"""What a run has said, line by line, with the time."""
ORIGINS = "config_origins.json"
"""Dotted name -> the file, or `--set`, that each value of config.yaml comes from; what is missing is a default."""


class RunFolder:
    """A claimed folder. Use as a context manager: leaving it, or dying, gives the claim back."""

    def __init__(self, path: Path, lock: Lock, *, is_new: bool = False) -> None:
        self.path = path
        self._is_new = is_new
        self._lock = lock
        self.metrics = path / "metrics.jsonl"
        self.quarantine = path / "quarantine.jsonl"
        self.logs = path / "logs"
        self.export = path / "export"
        self.weights = path / "weights"
        self.rollouts = path / "rollouts"

    @classmethod
    def claim(cls, path: Path, *, resume: bool) -> Self:
        """Take the folder for this process.

        Raises:
            RunError: another process holds it; it holds a run and `resume` is off; there is nothing to resume; or a
                file in it is a link that leads out.
        """
        check(path, resume=resume)
        is_new = not path.exists()
        path.mkdir(parents=True, exist_ok=True)
        lock = Lock.take(path / LOCK)
        if lock is None:
            raise _held(path)
        if SUPERVISED not in os.environ:
            forget_stop(path)
        return cls(path, lock, is_new=is_new)

    def write_config(self, config: dict[str, Any]) -> None:
        """Keep the resolved configuration and what it runs on."""
        (self.path / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
        # what an earlier process of the run has said of its values may no longer be so
        (self.path / ORIGINS).unlink(missing_ok=True)
        environment = {
            "egrc_mega": __version__,
            "python": platform.python_version(),
            "packages": package_versions(),
            "git_commit": _git_commit(),
            "arguments": sys.argv[1:],
            "num_cpus": os.cpu_count(),
        }
        (self.path / "environment.json").write_text(json.dumps(environment, indent=2))

    def write_origins(self, origins: Mapping[str, str]) -> None:
        """Keep where the values of the configuration come from: dotted name -> a file, or `--set`."""
        (self.path / ORIGINS).write_text(json.dumps(dict(origins), indent=1))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._is_new and os.listdir(self.path) == [LOCK]:
            # nothing has come of it: it was refused for its data, say
            (self.path / LOCK).unlink()
            self.path.rmdir()
        self._lock.release()


def check(path: Path, *, resume: bool) -> None:
    """The verdict of `claim`, without claiming.

    Raises:
        RunError: see `RunFolder.claim`.
    """
    require_no_links_out(path)
    if is_held(path):
        raise _held(path)
    exists = has_begun(path)
    if exists and not resume:
        raise RunError(f"run.dir: {path} holds a run; continue it with --resume, or move it aside with --fresh")
    if resume and not exists:
        raise RunError(f"run.dir: {path} holds no run to resume; start it without --resume")


def require_no_links_out(path: Path) -> None:
    """Refuse a folder in which a file is a link to one elsewhere: what we write or cut short would be that one.

    Folders may be links, for checkpoints lie on another disk so; nothing is lost in a device such as /dev/null. What
    lies deeper is written into folders that we make, or is a tracker's own: wandb links its log to its cache.

    Raises:
        RunError: naming the link.
    """
    inside = path.resolve()
    for file in (*path.glob("*"), *path.glob("*/*")):
        is_link = file.is_symlink() and not file.is_dir()
        if is_link and not (file.resolve().is_relative_to(inside) or file.is_char_device()):
            raise RunError(
                f"{file} is a link to {file.readlink()}, outside of the run's folder, which would be written there; "
                f"remove the link"
            )


@contextmanager
def place_of_disk_errors(run_dir: Path) -> Iterator[None]:
    """Whoever could not write, and did not say where, wrote into the run folder."""
    try:
        yield
    except OSError as error:
        if error.errno in DISK_ERRORS and not error.filename:
            error.filename = str(run_dir)
        raise


def has_begun(path: Path) -> bool:
    """True when the folder holds a run, so that there is something to go on with."""
    return (path / "metrics.jsonl").exists()


def is_held(path: Path) -> bool:
    """True when a living process has claimed the folder."""
    return holder_of(path / LOCK) is not None


def forget_stop(path: Path) -> None:
    """Who begins, or goes on, is not stopped by what was asked of an earlier process."""
    (path / STOP).unlink(missing_ok=True)


def move_aside(path: Path) -> Path | None:
    """Rename an earlier run to the first free `<name>.1`, `<name>.2`, ...; None when there is none. Nothing is lost.

    Raises:
        RunError: a living process holds it.
    """
    if is_held(path):
        raise _held(path)
    if not path.exists():
        return None
    number = 1
    while (aside := path.with_name(f"{path.name}.{number}")).exists():
        number += 1
    return path.rename(aside)


def _held(path: Path) -> RunError:
    holder = holder_of(path / LOCK) or "another process, which has just ended"
    return RunError(f"run.dir: {path} is held by {holder}; wait for it, end it, or choose another run.dir")


def package_versions() -> dict[str, str | None]:
    """Of everything that a run's numbers depend on; None: it is not installed."""
    return {name: _version(name) for name in RECORDED_PACKAGES}


def _version(package: str) -> str | None:
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _git_commit() -> str | None:
    """Commit of the checkout this package runs from, None for an installed wheel."""
    try:
        result = subprocess.run(
            ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"], capture_output=True, text=True, timeout=10
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return result.stdout.strip() if result.returncode == 0 else None
