"""Compiles every shipped variant of every kernel for GPUs that are not here, and reads what the compiler says of it.

Needs no GPU: Triton brings ptxas and LLVM. `kernels/compiled.json` keeps the figures; a kernel that takes more
registers or shared memory than there, or spills at all, fails the gate. Rewrite the table with

    python -m egrc_mega.testing.compile_gate --write
"""

import argparse
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "kernels" / "compiled.json"
SHARED_LIMITS = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
"""Bytes of shared memory that a block may have."""
CUDA, ALL = ("sm_80", "sm_90", "sm_100"), ("sm_80", "sm_90", "sm_100", "gfx942")


@dataclass(frozen=True, slots=True)
class Variant:
    """One specialisation of a kernel, as its launcher would ask for it."""

    name: str
    kernel: tuple[str, str]
    """Module below egrc_kernels and function."""
    types: dict[str, str]
    constants: dict[str, Any]
    options: dict[str, Any]
    targets: tuple[str, ...] = ALL
    aligned: tuple[str, ...] = field(default=())
    """Integers that are multiples of 16. Pointers are: torch allocates so, and the launchers pass whole tensors."""


def variants() -> Iterator[Variant]:
    """What the launchers use, in bf16 and with each constant that makes another kernel."""
    yield from _row_variants()
    yield from _fused_variants()
    yield from _loss_variants()
    yield from _layer_variants()


def _row_variants() -> Iterator[Variant]:
    from egrc_kernels.logprob import triton as rows

    for dtype, at_one in (("fp32", True), ("fp32", False), ("bf16", False)):
        yield Variant(
            f"logprob/partials/{dtype}/{'one temperature' if at_one else 'two temperatures'}",
            ("logprob", "_partials_kernel"),
            {"logits": f"*{dtype}", "targets": "*i64", "partials": "*fp32", "inverse_temperature": "fp32"},
            {"AT_ONE": at_one, "BLOCK": rows.PARTIALS_BLOCK, "GROUP": rows.PARTIALS_GROUP},
            {"num_warps": rows.PARTIALS_WARPS},
            aligned=("row_stride",),
        )
    for dtype, out, has_entropy in (
        ("fp32", "fp32", True),
        ("fp32", "bf16", False),
        ("fp32", "bf16", True),
        ("fp32", "fp16", True),
        ("bf16", "bf16", False),
        ("bf16", "bf16", True),
    ):
        per_row = dict.fromkeys(("log_sums", "grad_logprobs", "entropies", "grad_entropies"), "*fp32")
        yield Variant(
            f"logprob/gradients/{out} of {dtype}/{'with' if has_entropy else 'without'} entropy",
            ("logprob", "_gradients_kernel"),
            {"logits": f"*{dtype}", "gradients": f"*{out}", "targets": "*i64", "inverse_temperature": "fp32"} | per_row,
            {"HAS_ENTROPY": has_entropy, "BLOCK": rows.GRADIENTS_BLOCK},
            {"num_warps": rows.GRADIENTS_WARPS},
            aligned=("row_stride", "gradient_stride", "num_columns"),
        )


def _fused_variants() -> Iterator[Variant]:
    from egrc_kernels.linear_logprob import triton as fused

    for major, at_one in ((8, False), (9, True), (9, False), (10, False)):
        tiles = fused.TILES[major]
        yield Variant(
            f"linear_logprob/tiles/{'one temperature' if at_one else 'two temperatures'}",
            ("linear_logprob", "_tiles_kernel"),
            {
                "hidden": "*bf16",
                "weight": "*bf16",
                "targets": "*i64",
                "partials": "*fp32",
                "inverse_temperature": "fp32",
            },
            {
                "AT_ONE": at_one,
                "WARP_SPECIALIZE": tiles.warp_specialize,
                "INTERPRETED": False,
                "GROUP_M": fused.GROUP_M,
                "BLOCK_M": tiles.m,
                "BLOCK_N": tiles.n,
                "BLOCK_K": tiles.k,
            },
            {"num_warps": tiles.num_warps, "num_stages": tiles.num_stages},
            targets=(f"sm_{major}0",),
            aligned=("hidden_size",),
        )
    yield Variant(
        "linear_logprob/join",
        ("linear_logprob", "_join_kernel"),
        {"tiles": "*fp32", "partials": "*fp32", "inverse_temperature": "fp32"},
        {"AT_ONE": False, "ROWS": fused.JOIN_ROWS, "TILES_AT_A_TIME": fused.JOIN_TILES},
        {"num_warps": fused.JOIN_WARPS},
    )


def _loss_variants() -> Iterator[Variant]:
    """Every loss that the trainer can ask for: it always gives the server's log-probs."""
    from egrc_kernels.policy_loss import triton as loss
    from egrc_kernels.policy_loss.settings import KLS, RATIOS

    tensors = ("logprobs", "advantages", "weights", "olds", "rollouts", "references", "gradients", "sums")
    scalars = ("low", "high", "dual_clip", "tis_cap", "kl_coef")
    types = dict.fromkeys(tensors, "*fp32") | dict.fromkeys(scalars, "fp32") | {"boundaries": "*i32"}
    for ratio, dual, tis, kl in product(RATIOS, (False, True), (False, True), (None, *KLS)):
        if dual and ratio == "none":
            continue  # there is no ratio to clip
        terms = [ratio, *["dual clip"] * dual, *["TIS"] * tis, *([kl] if kl else [])]
        constants = {"RATIO": RATIOS.index(ratio), "DUAL": dual, "HAS_TIS": tis}
        constants |= {"KL": KLS.index(kl or "k3"), "HAS_KL": kl is not None, "BLOCK": loss.BLOCK}
        yield Variant(
            f"policy_loss/{', '.join(terms)}",
            ("policy_loss", "_policy_loss_kernel"),
            types,
            constants,
            {"num_warps": loss.WARPS, "maxnreg": loss.MAX_REGISTERS},
            targets=ALL if terms == [ratio] else CUDA,
        )
    yield Variant(
        "policy_loss/totals",
        ("policy_loss", "_totals_kernel"),
        {"sums": "*fp32", "loss": "*fp32", "metrics": "*fp32"},
        {"BLOCK": loss.TOTALS_BLOCK},
        {"num_warps": loss.WARPS},
    )


def _layer_variants() -> Iterator[Variant]:
    from egrc_kernels.rmsnorm.triton import block_and_warps
    from egrc_kernels.rope import triton as rope
    from egrc_kernels.swiglu import triton as swiglu

    for size in (1536, 3584, 8192):
        block, warps = block_and_warps(size)
        norm = {"x": "*bf16", "weight": "*bf16", "inverses": "*fp32", "eps": "fp32"}
        for kernel, types in (
            ("_forward_kernel", norm | {"y": "*bf16"}),
            ("_backward_kernel", norm | {"grad": "*bf16", "grad_x": "*bf16", "grad_weights": "*fp32"}),
        ):
            yield Variant(
                f"rmsnorm/{kernel.strip('_').removesuffix('_kernel')}/{size}",
                ("rmsnorm", kernel),
                types,
                {"BLOCK": block},
                {"num_warps": warps},
                aligned=("row_stride", "grad_stride", "size"),
            )
    for kernel, types in (
        ("_forward_kernel", {"x": "*bf16", "y": "*bf16"}),
        ("_backward_kernel", {"grad": "*bf16", "x": "*bf16", "grad_x": "*bf16"}),
    ):
        yield Variant(
            f"swiglu/{kernel.strip('_').removesuffix('_kernel')}",
            ("swiglu", kernel),
            types,
            {"BLOCK": swiglu.BLOCK},
            {"num_warps": swiglu.WARPS},
            aligned=("row_stride", "grad_stride", "size"),
        )
    yield Variant(
        "rope/28 heads of 128",
        ("rope", "_rope_kernel"),
        {"x": "*bf16", "y": "*bf16", "cosines": "*fp32", "sines": "*fp32", "positions": "*i64", "sign": "fp32"},
        {"HEADS": 32, "HALF": 64, "REST": 0},
        {"num_warps": rope.WARPS},
        aligned=("token_stride", "head_stride", "head_dim", "half"),
    )


def compile_all() -> dict[str, dict[str, Any]]:
    """`name @ target` -> figures, of every variant on every of its targets; two processes at a time."""
    jobs = [(number, target) for number, variant in enumerate(variants()) for target in variant.targets]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return dict(pool.map(_compile_job, jobs))


def _compile_job(job: tuple[int, str]) -> tuple[str, dict[str, Any]]:
    number, target = job
    variant = list(variants())[number]
    return f"{variant.name} @ {target}", compile_variant(variant, target)


def compile_variant(variant: Variant, target: str) -> dict[str, Any]:
    """Registers, spills, shared memory and the instructions to look for."""
    # a hit in the cache would print nothing
    with tempfile.TemporaryDirectory(prefix="egrc-gate-") as empty:
        os.environ["TRITON_CACHE_DIR"] = empty
        return _compile(variant, target)


def _compile(variant: Variant, target: str) -> dict[str, Any]:
    import importlib

    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    targets = {"gfx942": GPUTarget("hip", "gfx942", 64)} | {
        name: GPUTarget("cuda", int(name.removeprefix("sm_")), 32) for name in CUDA
    }
    module = importlib.import_module(f"egrc_kernels.{variant.kernel[0]}.triton")
    function = getattr(module, variant.kernel[1])
    names = function.arg_names
    signature = {name: "constexpr" if name in variant.constants else variant.types.get(name, "i32") for name in names}
    aligned = {name for name, kind in signature.items() if kind.startswith("*") or name in variant.aligned}
    divisible = {(names.index(name),): [["tt.divisibility", 16]] for name in aligned}
    source = ASTSource(function, signature=signature, constexprs=variant.constants, attrs=divisible)
    triton.knobs.nvidia.dump_ptxas_log = True
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        options = {k: v for k, v in variant.options.items() if k != "maxnreg" or target != "gfx942"}
        compiled = triton.compile(source, target=targets[target], options=options)
    figures: dict[str, Any] = {"shared": compiled.metadata.shared}
    if target == "gfx942":
        text = compiled.asm["amdgcn"]
        spills = _number(r"\.vgpr_spill_count:\s+(\d+)", text) + _number(r"\.sgpr_spill_count:\s+(\d+)", text)
        return figures | {"registers": _number(r"\.vgpr_count:\s+(\d+)", text), "spills": spills}
    text, ptx = log.getvalue(), compiled.asm["ptx"]
    return figures | {
        "registers": _number(r"Used (\d+) registers", text),
        "stack": _number(r"(\d+) bytes stack frame", text),
        "spills": _number(r"(\d+) bytes spill stores", text) + _number(r"(\d+) bytes spill loads", text),
        "wgmma": "wgmma.mma_async" in ptx,
        "tcgen05": "tcgen05.mma" in ptx,
        "setmaxnreg": "setmaxnreg" in ptx,
    }


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"the compiler's output has no {pattern}: {text[:500]}"
    return int(found[1])


def main() -> None:
    """Print the table, or write it to the repository."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--write", action="store_true")
    text = json.dumps({"figures": compile_all()} | _versions(), indent=1) + "\n"
    if parser.parse_args().write:
        TABLE.write_text(text)
    print(text)


def _versions() -> dict[str, str]:
    import triton

    return {"triton": triton.__version__}


if __name__ == "__main__":
    main()
