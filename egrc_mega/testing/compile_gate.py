"""Compiles every shipped variant of every kernel for GPUs that are not here, and reads what the compiler says of it.

Needs no GPU: Triton brings ptxas and LLVM. Each variant is a launch of the kernel's own launcher, on tensors without
memory, so types, constants, alignments and options are the launch's. `kernels/compiled_triton_VERSION.json` keeps the
figures; a kernel that takes more registers or shared memory than there, or spills at all, fails the gate. Rewrite the
table of the Triton that is installed, or only what has changed of it, with

    python -m egrc_mega.testing.compile_gate --write [--only linear_logprob/tiles]
"""

import argparse
import contextlib
import io
import json
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from itertools import product
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from egrc_mega.testing.launches import Launch, noted_launches
from egrc_mega.testing.sass import Loop, disassembled, heaviest_loop, num_instructions

TABLES = Path(__file__).parents[2] / "kernels"
SHARED_LIMITS = {"sm_80": 166912, "sm_90": 232448, "sm_100": 232448, "gfx942": 65536}
"""Bytes of shared memory that a block may have."""
CUDA, ALL = ("sm_80", "sm_90", "sm_100"), ("sm_80", "sm_90", "sm_100", "gfx942")
VOCAB, SLICE = 152064, 50688
TILES_KERNEL, GRADIENTS_KERNEL = "linear_logprob._tiles_kernel", "linear_logprob._gradients_kernel"
LOSS_KERNEL = "policy_loss._policy_loss_kernel"
MANY = 64
"""Losses that are compiled in every run of the gate, if there are no more."""
BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32


@dataclass(frozen=True, slots=True)
class Variant:
    """One specialisation of a kernel, as its launcher asks for it."""

    name: str
    launch: Callable[[], object]
    """Calls the launcher."""
    kernel: str
    """Which of its launches, by the kernel's name; see `Launch.name`."""
    targets: tuple[str, ...] = ALL

    def noted(self) -> Launch:
        """The launch that it is."""
        with noted_launches() as launches:
            self.launch()
        (found,) = (launch for launch in launches if launch.name == self.kernel)
        return found


def variants(every_loss: bool = False) -> Iterator[Variant]:
    """What the launchers use, in bf16 and with each constant and alignment that makes another kernel."""
    yield from _row_variants()
    yield from _fused_variants()
    yield from _loss_variants(every_loss)
    yield from _layer_variants()


def _empty(*shape: int, dtype: torch.dtype = FP32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def _row_variants() -> Iterator[Variant]:
    from egrc_kernels.logprob import triton as rows

    targets, per_row = _empty(64, dtype=torch.int64), _empty(64)
    for dtype, temperature in product((FP32, BF16), (1.0, 0.7)):
        yield Variant(
            f"logprob/partials/{_name(dtype)}/{_temperatures(temperature)}",
            partial(rows.row_partials, _empty(64, VOCAB, dtype=dtype), targets, 0, VOCAB, temperature),
            "logprob._partials_kernel",
        )
    for dtype, out, has_entropy in (
        (FP32, FP32, True),
        (FP32, BF16, False),
        (FP32, BF16, True),
        (FP32, FP16, True),
        (BF16, BF16, False),
        (BF16, BF16, True),
    ):
        logits, gradients = _empty(64, VOCAB, dtype=dtype), _empty(64, VOCAB, dtype=out)
        entropies = per_row if has_entropy else None
        rest: Any = (targets, per_row, per_row, entropies, entropies, 0, VOCAB, 0.7)
        yield Variant(
            f"logprob/gradients/{_name(out)} of {_name(dtype)}/{'with' if has_entropy else 'without'} entropy",
            partial(rows.row_gradients, logits, gradients, *rest),
            "logprob._gradients_kernel",
        )


def _fused_variants() -> Iterator[Variant]:
    """Rows that are a multiple of 16 and others are two variants, for the launcher leaves that to Triton.

    So are tiles with padding in them and without; the launcher takes first these, then those.
    """
    from egrc_kernels.linear_logprob import triton as fused

    for writes, (major, temperature), num_rows, padded in product(
        (False, True), ((8, 0.7), (9, 1.0), (9, 0.7), (10, 0.7)), (8192, 8191), (False, True)
    ):
        launch = partial(_fused, num_rows, temperature, fused.TILES[major], VOCAB - VOCAB * padded, writes)
        rows = "" if num_rows % 16 == 0 else "/rows that are no multiple of 16"
        what = "exponentials" if writes else "tiles"
        name = f"linear_logprob/{what}/{_temperatures(temperature)}{rows}{'/padding' * padded}"
        yield Variant(name, launch, TILES_KERNEL, (f"sm_{major}0",))
    for major, has_entropy, padded in product((8, 9, 10), (False, True), (False, True)):
        launch = partial(_fused_gradients, has_entropy, fused.TILES[major], SLICE - SLICE * padded)
        name = f"linear_logprob/gradients/{'with' if has_entropy else 'without'} entropy{'/padding' * padded}"
        yield Variant(name, launch, GRADIENTS_KERNEL, (f"sm_{major}0",))
    for temperature in (1.0, 0.7):
        launch = partial(_fused, 8192, temperature, fused.TILES[9], VOCAB)
        yield Variant(f"linear_logprob/join/{_temperatures(temperature)}", launch, "linear_logprob._join_kernel")


def _fused(num_rows: int, temperature: float, tiles: Any, num_real: int, writes: bool = False) -> None:
    from egrc_kernels.linear_logprob import triton as fused

    hidden, weight = _empty(num_rows, 3584, dtype=BF16), _empty(VOCAB, 3584, dtype=BF16)
    rest = (hidden, weight, _empty(num_rows, dtype=torch.int64), 0, num_real, temperature, tiles)
    if not writes:
        fused.fused_partials(*rest, num_programs=132)
        return
    values, once = _empty(num_rows, VOCAB, dtype=BF16), _empty(dtype=torch.int32)
    exponentials = fused.Exponentials(values, _empty(num_rows), once)
    partials = fused.empty_partials(hidden, weight, tiles)
    fused.write_tiles(partials, *rest, num_programs=132, exponentials=exponentials)


def _fused_gradients(has_entropy: bool, tiles: Any, num_real: int) -> None:
    from egrc_kernels.linear_logprob import triton as fused

    hidden, weight = _empty(8191, 3584, dtype=BF16), _empty(SLICE, 3584, dtype=BF16)
    targets, per_row = _empty(8191, dtype=torch.int64), _empty(8191)
    entropies = per_row if has_entropy else None
    per_rows = (targets, per_row, per_row, entropies, entropies)
    fused.fused_gradients(hidden, weight, *per_rows, 0, num_real, 0.7, tiles, num_programs=132)


def _loss_variants(every: bool) -> Iterator[Variant]:
    """Losses that the trainer can ask for: it always gives the server's log-probs.

    Settings that differ in no constant of the kernel are one variant. Where there are more than `MANY`, those with two
    terms or more, but not all, are for `every`.
    """
    from egrc_kernels.policy_loss.settings import LossSettings

    from egrc_mega.testing.losses import all_losses, described, terms

    found: dict[tuple[Any, ...], tuple[Variant, set[int]]] = {}
    for settings in all_losses():
        num_on = sum(terms(settings).values())
        name = f"policy_loss/{described(settings)}"
        variant = Variant(name, partial(_loss, settings), LOSS_KERNEL, CUDA if num_on else ALL)
        found.setdefault(tuple(variant.noted().constants.values()), (variant, set()))[1].add(num_on)
    often = {0, 1, len(terms(LossSettings()))}
    for variant, nums_on in found.values():
        if every or len(found) <= MANY or nums_on & often:
            yield variant
    yield Variant("policy_loss/totals", partial(_loss, LossSettings()), "policy_loss._totals_kernel")


def _loss(settings: Any) -> None:
    from egrc_kernels.policy_loss import triton as loss

    tokens, boundaries = _empty(4096), _empty(17, dtype=torch.int32)
    references, entropies = tokens if settings.kl_coef else None, tokens if settings.entropy_coef else None
    rest = (references, entropies, boundaries, settings)
    loss.loss_gradients_metrics(tokens, tokens, tokens, tokens, tokens, *rest)


def _layer_variants() -> Iterator[Variant]:
    from egrc_kernels.rmsnorm import triton as rmsnorm
    from egrc_kernels.rope import triton as rope
    from egrc_kernels.swiglu import triton as swiglu

    inverse, positions, angles = _empty(64), _empty(64, dtype=torch.int64), _empty(4096, 64)
    for size in (128, 896, 1536, 3584, 8192):
        x, weight = _empty(64, size, dtype=BF16), _empty(size, dtype=BF16)
        forward, backward = (
            partial(rmsnorm.rmsnorm, x, weight, 1e-6),
            partial(rmsnorm.rmsnorm_backward, x, x, weight, inverse),
        )
        yield Variant(f"rmsnorm/forward/{size}", forward, "rmsnorm._forward_kernel")
        yield Variant(f"rmsnorm/backward/{size}", backward, "rmsnorm._backward_kernel")
    x, grad = _empty(64, 2 * 8960, dtype=BF16), _empty(64, 8960, dtype=BF16)
    yield Variant("swiglu/forward", partial(swiglu.swiglu, x), "swiglu._forward_kernel")
    yield Variant("swiglu/backward", partial(swiglu.swiglu_backward, grad, x), "swiglu._backward_kernel")
    for heads in (28, 12, 7, 4, 2, 1):
        launch = partial(rope.rope, _empty(64, heads, 128, dtype=BF16), angles, angles, positions, 1.0)
        yield Variant(f"rope/{heads} heads of 128", launch, "rope._rope_kernel")


def _name(dtype: torch.dtype) -> str:
    return {BF16: "bf16", FP16: "fp16", FP32: "fp32"}[dtype]


def _temperatures(temperature: float) -> str:
    return "one temperature" if temperature == 1 else "two temperatures"


def table_file(triton_version: str) -> Path:
    """Where the figures of one Triton stand."""
    return TABLES / f"compiled_triton_{triton_version}.json"


def compile_all(chosen: Callable[[str], bool] = lambda _name: True) -> dict[str, dict[str, Any]]:
    """`name @ target` -> figures, of the variants chosen by name on each of their targets; two processes at a time."""
    numbered = [(number, variant) for number, variant in enumerate(_all_variants()) if chosen(variant.name)]
    jobs = [(number, target) for number, variant in numbered for target in variant.targets]
    with ProcessPoolExecutor(2, mp_context=get_context("spawn")) as pool:
        return dict(pool.map(_compile_job, jobs))


@cache
def _all_variants() -> list[Variant]:
    return list(variants(every_loss=True))


def _compile_job(job: tuple[int, str]) -> tuple[str, dict[str, Any]]:
    number, target = job
    variant = _all_variants()[number]
    return f"{variant.name} @ {target}", compile_variant(variant, target)


def compile_variant(variant: Variant, target: str) -> dict[str, Any]:
    """Registers, spills, shared memory and the instructions to look for."""
    # a hit in the cache would print nothing
    with tempfile.TemporaryDirectory(prefix="egrc-gate-") as empty:
        os.environ["TRITON_CACHE_DIR"] = empty
        return _compile(variant, target)


def _compile(variant: Variant, target: str) -> dict[str, Any]:
    import triton
    from triton.backends.compiler import GPUTarget

    is_amd = target == "gfx942"
    gpu = GPUTarget("hip", target, 64) if is_amd else GPUTarget("cuda", int(target.removeprefix("sm_")), 32)
    source, options = variant.noted().source(gpu)
    triton.knobs.nvidia.dump_ptxas_log = True
    log = io.StringIO()
    with contextlib.redirect_stdout(log):
        compiled = triton.compile(source, target=gpu, options=options)
    figures: dict[str, Any] = {"shared": compiled.metadata.shared}
    if is_amd:
        text = compiled.asm["amdgcn"]
        spills = _number(r"\.vgpr_spill_count:\s+(\d+)", text) + _number(r"\.sgpr_spill_count:\s+(\d+)", text)
        return figures | {"registers": _number(r"\.vgpr_count:\s+(\d+)", text), "spills": spills}
    text, ptx, sass = log.getvalue(), compiled.asm["ptx"], disassembled(compiled.asm["cubin"])
    # of a tile's epilogue, which is no loop, the whole kernel must speak
    whole = {"instructions": num_instructions(sass)} if variant.kernel in (TILES_KERNEL, GRADIENTS_KERNEL) else {}
    return figures | {
        "registers": _number(r"Used (\d+) registers", text),
        "stack": _number(r"(\d+) bytes stack frame", text),
        "spills": _number(r"(\d+) bytes spill stores", text) + _number(r"(\d+) bytes spill loads", text),
        "wgmma": "wgmma.mma_async" in ptx,
        "tcgen05": "tcgen05.mma" in ptx,
        **whole,
        **_in_loop(heaviest_loop(sass)),
    }


def _in_loop(loop: Loop | None) -> dict[str, int]:
    """Of the loop that reads most: instructions of a thread in one round, and bytes that it reads."""
    if loop is None:
        return {}
    return {"loop": loop.instructions, "loop_bytes": loop.bytes_read, "loop_bytes_ahead": loop.bytes_ahead}


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    assert found, f"the compiler's output has no {pattern}: {text[:500]}"
    return int(found[1])


def main() -> None:
    """Print the table, or write it to the repository."""
    import triton

    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--only", default="", help="how the names begin of what is compiled; the rest stays as it is")
    arguments = parser.parse_args()
    listed = list(variants())
    names = {variant.name for variant in listed}
    file = table_file(triton.__version__)
    figures = json.loads(file.read_text())["figures"] if arguments.only else {}
    figures |= compile_all(lambda name: name in names and name.startswith(arguments.only))
    order = [f"{variant.name} @ {target}" for variant in listed for target in variant.targets]
    text = json.dumps({"figures": {name: figures[name] for name in order}}, indent=1) + "\n"
    if arguments.write:
        file.write_text(text)
    print(text)


if __name__ == "__main__":
    main()
