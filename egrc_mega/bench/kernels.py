"""`egrc bench kernels`: each contender is checked against float64, then timed; no figure without a green check."""

import json
import platform
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from egrc_kernels.registry import choice
from torch._dynamo.exc import BackendCompilerFailed

from egrc_mega.bench.measure import ceilings, measure
from egrc_mega.bench.ops import BUILDERS, Sizes, build_case
from egrc_mega.errors import ConfigError

BASELINES = ("eager", "compile", "torch", "liger", "megatron")
DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
TOLERANCE = {torch.float32: 1e-4, torch.bfloat16: 2e-2, torch.float16: 4e-3}
"""Relative L2 against float64 that a result in the type may have."""
MEANINGLESS = "no GPU: references at toy size, the figures mean nothing"


@dataclass(frozen=True, slots=True)
class Row:
    """One contender in one mode."""

    op: str
    contender: str
    mode: str
    error: float | None
    """Relative L2 against float64."""
    verdict: str
    milliseconds: float | None = None
    rate: float | None = None
    unit: str = ""
    ceiling_share: float | None = None
    """Of the product's or the copy's rate, measured in the same run."""
    peak_mib: float | None = None


def run(ops: Sequence[str], sizes: Sizes, baselines: Sequence[str], rounds: int) -> dict[str, Any]:
    """All rows with their ceilings, device and versions.

    Raises:
        ConfigError: an unknown op or baseline.
    """
    for name, given, known in (("--op", ops, list(BUILDERS)), ("--baseline", baselines, list(BASELINES))):
        for value in given:
            if value not in known:
                raise ConfigError(f"{name}: {value} is unknown; choose from {', '.join(known)}")
    limits = ceilings(sizes.dtype)
    rows = [row for op in ops for row in _rows(op, sizes, frozenset(baselines), limits, rounds)]
    has_gpu = torch.cuda.is_available()
    result: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if has_gpu else platform.machine(),
        "sizes": asdict(sizes) | {"dtype": str(sizes.dtype).removeprefix("torch.")},
        "rounds": rounds,
        "kernels": choice(),
        "versions": {name: _version(name) for name in ("torch", "triton", "liger-kernel", "megatron-core")},
        "ceilings": limits,
        "rows": [asdict(row) for row in rows],
        # not installed, in need of a GPU, or without the ops asked for
        "absent": [name for name in baselines if name not in {row.contender for row in rows}],
    }
    return result if has_gpu else {"note": MEANINGLESS} | result


def _rows(op: str, sizes: Sizes, baselines: frozenset[str], limits: dict[str, float], rounds: int) -> list[Row]:
    case = build_case(op, sizes, baselines)
    limit = limits["matmul_tflops"] if case.unit == "TFLOP/s" else limits["copy_gb_per_s"]
    scale = 1e12 if case.unit == "TFLOP/s" else 1e9
    rows = []
    for contender in case.contenders:
        error = None
        try:
            error = contender.error() if contender.error else None
            if error is not None and not error <= TOLERANCE[sizes.dtype]:
                rows.append(Row(op, contender.name, contender.mode, error, "wrong"))
                continue
            measured = measure(contender.call, rounds)
        except torch.OutOfMemoryError:
            torch.cuda.empty_cache()
            rows.append(Row(op, contender.name, contender.mode, error, "out of memory"))
            continue
        except BackendCompilerFailed:
            # for one, torch's compiler for CPUs wants a path without spaces
            rows.append(Row(op, contender.name, contender.mode, error, "does not compile"))
            continue
        except Exception as failure:  # a peer's own failure must not cost the others their figures
            rows.append(Row(op, contender.name, contender.mode, error, f"failed: {type(failure).__name__}"))
            continue
        rate = case.work[contender.mode] / measured.seconds / scale
        peak = None if measured.peak_bytes is None else measured.peak_bytes / 2**20
        times = (measured.seconds * 1000, rate, case.unit, rate / limit, peak)
        rows.append(Row(op, contender.name, contender.mode, error, "ok", *times))
    return rows


def table(result: dict[str, Any]) -> str:
    """The figures as a table for people, a line for each op, contender and mode."""
    lines = [
        f"{result['device']}, {result['sizes']}, median of {result['rounds']}; ceilings: "
        f"{result['ceilings']['matmul_tflops']:.3g} TFLOP/s, {result['ceilings']['copy_gb_per_s']:.3g} GB/s",
        f"{'op':<15} {'contender':<27} {'mode':<9} {'error':>8} {'ms':>10} {'rate':>17} {'ceiling':>8} {'peak MiB':>9}",
    ]
    for row in result["rows"]:
        error = "-" if row["error"] is None else f"{row['error']:.1e}"
        figures = f"{row['verdict']:>10}"
        if row["milliseconds"] is not None:
            rate, peak = f"{row['rate']:.3g} {row['unit']}", row["peak_mib"]
            memory = "-" if peak is None else f"{peak:.0f}"
            figures = f"{row['milliseconds']:>10.3f} {rate:>17} {row['ceiling_share']:>8.1%} {memory:>9}"
        lines.append(f"{row['op']:<15} {row['contender']:<27} {row['mode']:<9} {error:>8} {figures}")
    if result["absent"]:
        lines.append(f"without figures: {', '.join(result['absent'])}")
    return "\n".join([*lines, *([result["note"]] if "note" in result else [])])


def write(result: dict[str, Any], folder: Path) -> None:
    """`kernels.json`, `kernels.txt` and a plot of times in `kernels.png`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "kernels.json").write_text(json.dumps(result, indent=1) + "\n")
    (folder / "kernels.txt").write_text(table(result) + "\n")
    _plot(result, folder / "kernels.png")


def _plot(result: dict[str, Any], file: Path) -> None:
    from matplotlib.figure import Figure

    measured = [row for row in result["rows"] if row["milliseconds"] is not None]
    panels = list(dict.fromkeys((row["op"], row["mode"]) for row in measured))
    figure = Figure(figsize=(11, 1.2 + 0.9 * len(panels)), layout="constrained")
    axes = figure.subplots(len(panels), 1, squeeze=False)[:, 0]
    for axis, panel in zip(axes, panels, strict=True):
        rows = [row for row in measured if (row["op"], row["mode"]) == panel]
        names = [row["contender"] for row in rows]
        bars = axis.barh(
            names, [row["milliseconds"] for row in rows], color=["C0" if "egrc" in n else "C7" for n in names]
        )
        axis.bar_label(bars, fmt="%.3g", fontsize=7)
        axis.set_ylabel(f"{panel[0]}\n{panel[1]}", rotation=0, ha="right", va="center", fontsize=8)
        axis.tick_params(labelsize=7)
        axis.invert_yaxis()
    axes[-1].set_xlabel(f"milliseconds, {result['device']}" + (f" ({result['note']})" if "note" in result else ""))
    figure.savefig(file, dpi=110)


def _version(name: str) -> str | None:
    try:
        return version(name)
    except PackageNotFoundError:
        return None
