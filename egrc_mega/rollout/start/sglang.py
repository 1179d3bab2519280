"""How a server of SGLang is started: its own environment, its flags, and what a CPU needs besides."""

import os
import socket
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from egrc_mega.errors import ConfigError
from egrc_mega.sections.rollout import RolloutSection

CPU_FLAGS = (
    "--device=cpu",
    "--dtype=float32",
    "--attention-backend=torch_native",
    "--sampling-backend=pytorch",
    "--cuda-graph-backend-decode=disabled",
    "--cuda-graph-backend-prefill=disabled",
    "--sleep-on-idle",
    "--max-total-tokens=65536",
)
"""Seen to work with 0.5.23. Without the last two an idle scheduler keeps a core busy and the cache takes all memory."""
CPU_ENVIRONMENT = {
    "SGLANG_USE_CPU_ENGINE": "1",
    "EGRC_SGLANG_SEEDS": "1",
    # the first seeded request would compile its sampler for a quarter of a minute
    "TORCHDYNAMO_DISABLE": "1",
    "OMP_NUM_THREADS": "1",
}
ROOT = Path(__file__).parents[3]


@dataclass(frozen=True, slots=True)
class Launch:
    """A command, its environment, and where the server will answer."""

    command: tuple[str, ...]
    environment: dict[str, str]
    url: str


def launch_sglang(section: RolloutSection, model_path: Path, *, port: int, number: int, weight_version: str) -> Launch:
    """The `number`-th server of a run.

    Raises:
        ConfigError: SGLang's environment is missing.
    """
    python = find_python(section)
    port = port or free_port()
    command = [str(python), "-m", "sglang.launch_server", "--model-path", str(model_path), "--host", section.host]
    command += ["--port", str(port), "--weight-version", weight_version, "--tp-size", str(section.tensor_parallel_size)]
    environment = {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "NO_PROXY": "127.0.0.1,localhost"}
    environment["SGLANG_TIMEOUT_KEEP_ALIVE"] = "60"
    if section.device == "cpu":
        command += [
            *CPU_FLAGS,
            "--enable-deterministic-inference",
            "--max-running-requests",
            str(section.max_batch_size),
        ]
        environment |= CPU_ENVIRONMENT | {"PYTHONPATH": str(ROOT / "scripts" / "serve" / "cpu_shim")}
        if section.tensor_parallel_size > 1:
            cores = [str(i % (os.cpu_count() or 1)) for i in range(section.tensor_parallel_size)]
            environment["SGLANG_CPU_OMP_THREADS_BIND"] = "|".join(cores)
    else:
        environment["CUDA_VISIBLE_DEVICES"] = ",".join(_gpus(section, number))
        if section.colocated:
            command.append("--enable-memory-saver")
    command += list(section.sglang_args)
    guarded = (sys.executable, "-P", "-m", "egrc_mega.rollout.start.guard", *command)
    return Launch(guarded, environment, f"http://{reachable(section.host)}:{port}")


def _gpus(section: RolloutSection, number: int) -> list[str]:
    """The GPUs of the `number`-th server, as CUDA names them.

    Raises:
        ConfigError: this process may not use that many.
    """
    size = section.tensor_parallel_size
    chosen = (section.gpus or range(section.num_servers * size))[number * size : (number + 1) * size]
    ours = [name for name in os.environ.get("CUDA_VISIBLE_DEVICES", "").split(",") if name]
    if not ours:
        return [str(gpu) for gpu in chosen]
    if max(chosen) >= len(ours):
        raise ConfigError(
            f"rollout.gpus: there is no GPU {max(chosen)} among the {len(ours)} of CUDA_VISIBLE_DEVICES, from which "
            f"they are counted; give others, or fewer servers"
        )
    return [ours[gpu] for gpu in chosen]


def find_python(section: RolloutSection, roots: Sequence[Path] | None = None) -> Path:
    """The interpreter that has SGLang.

    Raises:
        ConfigError: it is not where it should be.
    """
    if section.python is not None:
        candidates = [section.python]
    else:
        candidates = [root / ".venv-serve" / "bin" / "python" for root in roots or (Path.cwd(), ROOT)]
    for candidate in candidates:
        if candidate.exists():
            return candidate
    raise ConfigError(
        f"rollout.python: no SGLang environment at {' or '.join(map(str, candidates))}; "
        f"run bash scripts/serve_env.sh --device {section.device}, or name the interpreter that has it"
    )


def reachable(host: str) -> str:
    """Where this machine finds a server of its own that listens on `host`."""
    return "127.0.0.1" if host in ("0.0.0.0", "localhost") else host


def free_port() -> int:
    """One that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
