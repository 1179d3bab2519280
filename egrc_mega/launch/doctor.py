"""Looks at the machine: packages against the tested ranges, processors, memory, and what a run would use."""

import os
import platform
import shutil
import sys
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, metadata, version

import psutil
from packaging.specifiers import SpecifierSet
from rich.console import Console
from rich.table import Table


@dataclass(frozen=True, slots=True)
class Package:
    """A package that a run needs, or could use."""

    name: str
    purpose: str
    required: str | None = None
    """Version range; None: optional, any version."""


PACKAGES = (
    Package("torch", "tensors and process groups", ">=2.11"),
    Package("megatron-core", "policy training", ">=0.16,<0.17"),
    Package("transformers", "tokenizers, the embedded server", ">=5.17"),
    Package("math-verify", "grading", ">=0.9,<0.10"),
    Package("safetensors", "weights", ">=0.5"),
    Package("aiohttp", "client and embedded server", ">=3.10"),
    Package("pydantic", "configuration", ">=2.10"),
    Package("psutil", "without it megatron's checkpoint writer hangs", ">=5.9"),
    Package("triton", "GPU kernels"),
    Package("sglang", "belongs into an environment of its own"),
    Package("transformer-engine", "fused layers on a GPU"),
    Package("apex", "fused optimizer and norms on a GPU"),
    Package("pyarrow", "parquet data"),
    Package("kernels", "Hugging Face's; must not be shadowed by our folder of that name"),
)


def diagnose() -> int:
    """Print the table; 1 when something required is missing or out of range."""
    console = Console(soft_wrap=True)
    table = Table("package", "version", "needed", "verdict", "for", box=None, header_style="bold")
    verdicts = []
    for package in PACKAGES:
        found = _version(package.name)
        verdict = _verdict(package, found)
        verdicts.append(verdict)
        table.add_row(package.name, found or "-", package.required or "optional", verdict, package.purpose)
    console.print(table)
    console.print(
        f"Python {platform.python_version()} ({sys.executable}), {os.cpu_count()} cores, "
        f"{psutil.virtual_memory().total / 2**30:.1f} GiB memory"
    )
    console.print(_backend(), markup=False)
    if not {"missing", "out of range"} & set(verdicts):
        from egrc_mega.policy.layer_spec import parts_in_use

        for purpose, part in parts_in_use("auto").items():
            console.print(f"  {purpose}: {part}", markup=False)
    return 1 if "missing" in verdicts or "out of range" in verdicts else 0


def _verdict(package: Package, found: str | None) -> str:
    if found is None:
        return "missing" if package.required else "absent"
    if package.name == "apex" and "nvidia" not in str(metadata("apex")).lower():
        return "another project of that name"
    in_range = package.required is None or SpecifierSet(package.required).contains(found, prereleases=True)
    return "ok" if in_range else "out of range"


def _backend() -> str:
    if shutil.which("nvidia-smi") is None:
        return "No NVIDIA driver: the policy trains on the CPU with gloo, rollouts run on CPU servers."
    import torch

    if not torch.cuda.is_available():
        return "An NVIDIA driver is there, but this torch build has no CUDA: install torch's CUDA wheel."
    return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(0)}: the policy trains with NCCL."


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
