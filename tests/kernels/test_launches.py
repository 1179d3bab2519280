"""What the compile gate is made of: noted launches, their specialisations, loops in machine code, and kept tables."""

import importlib
import json
import pkgutil
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import Literal

import egrc_kernels
import pytest
import torch
from egrc_kernels.linear_logprob import triton as fused
from egrc_kernels.logprob import triton as rows
from egrc_kernels.policy_loss import LossSettings, policy_loss
from egrc_kernels.policy_loss import triton as loss
from egrc_kernels.rmsnorm import triton as norm
from pydantic import PositiveFloat
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from egrc_mega.sections.stage import LossSection
from egrc_mega.testing import compile_gate, losses
from egrc_mega.testing.compile_gate import LOSS_KERNEL, TABLES, TILES_KERNEL, _loss, variants
from egrc_mega.testing.launches import Launch, noted_launches
from egrc_mega.testing.sass import Loop, counted, loop_bodies
from egrc_mega.testing.traffic import counted as counted_traffic

H100 = GPUTarget("cuda", 90, 32)
SASS = """
.text._kernel:
        /*0000*/                   MOV R1, c[0x0][0x28] ;
.L_x_0:
        /*0010*/                   IADD3 R2, R2, 0x1, RZ ;
.L_x_1:
        /*0020*/                   LDG.E.128 R4, desc[UR4][R2.64] ;
        /*0030*/                   LDG.E.U16 R8, desc[UR4][R2.64+0x10] ;
        /*0040*/                   LDGSTS.E.BYPASS.128 [R9], desc[UR4][R2.64] ;
        /*0050*/               @P0 BRA `(.L_x_1) ;
        /*0060*/                   LDG.E R8, desc[UR4][R2.64] ;
        /*0070*/              @!P1 BRA `(.L_x_0) ;
        /*0080*/                   EXIT ;
.L_x_2:
        /*0090*/                   BRA `(.L_x_2);
"""


def empty(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.empty(shape, dtype=dtype, device="meta")


def partials(num_rows: int, num_real: int, columns: int = 152064) -> Launch:
    logits, targets = empty(num_rows, columns, dtype=torch.bfloat16), empty(num_rows, dtype=torch.int64)
    with noted_launches() as launches:
        rows.row_partials(logits, targets, 0, num_real, 0.7)
    (launch,) = launches
    return launch


def test_a_launch_is_noted_with_its_arguments_and_not_made() -> None:
    run = JITFunction.run
    launch = partials(5, 152000)
    assert (launch.name, launch.grid) == ("logprob._partials_kernel", (5,))
    assert launch.values["num_real"] == 152000 and launch.values["AT_ONE"] is False
    assert launch.options == {"num_warps": rows.PARTIALS_WARPS}
    assert JITFunction.run is run


def test_triton_says_which_memory_is_aligned() -> None:
    source, options = partials(64, 152064).source(H100)
    assert source.signature["logits"] == "*bf16" and source.signature["AT_ONE"] == "constexpr"
    assert options["num_warps"] == rows.PARTIALS_WARPS
    (name,) = (path for path in source.attrs if source.fn.arg_names[path[0]] == "row_stride")
    assert source.attrs[name] == [["tt.divisibility", 16]]
    assert partials(64, 152064, columns=152066).source(H100)[0].hash() != source.hash()


def test_no_number_of_rows_real_columns_or_sequences_makes_another_kernel() -> None:
    assert len({partials(n, real).source(H100)[0].hash() for n, real in ((64, 152064), (7, 151665), (1, 1))}) == 1
    x = empty(64, 1536, dtype=torch.bfloat16)
    found = []
    for count in (1, 7, 64):
        with noted_launches() as launches:
            tokens, boundaries = empty(4096), empty(count + 1, dtype=torch.int32)
            loss.loss_gradients_metrics(*[tokens] * 5, None, tokens, boundaries, LossSettings(entropy_coef=0.1))
            norm.rmsnorm_backward(x[:count], x[:count], x[0], empty(count))
        found.append([launch.source(H100)[0].hash() for launch in launches])
    assert found[0] == found[1] == found[2] and len(set(found[0])) == 3


def test_only_tiles_with_padding_in_them_ask_which_columns_are_real() -> None:
    hidden, weight = (empty(*s, dtype=torch.bfloat16) for s in ((300, 64), (1024, 64)))
    targets = empty(300, dtype=torch.int64)
    found = {}
    for real in (1024, 700, 0):
        with noted_launches() as launches:
            fused.fused_partials(hidden, weight, targets, 0, real, 1.0, fused.TILES[9], num_programs=132)
        tiles = [launch for launch in launches if launch.name == TILES_KERNEL]
        found[real] = [(*(t.values[n] for n in ("first_tile", "tiles_n", "MASKED")), *t.grid) for t in tiles]
    assert found == {1024: [(0, 4, False, 12)], 700: [(0, 2, False, 6), (2, 2, True, 6)], 0: [(0, 4, True, 12)]}


def kernels() -> dict[str, JITFunction]:
    """All of the repository, by the names that launches have."""
    found = {}
    for module in pkgutil.walk_packages(egrc_kernels.__path__, "egrc_kernels."):
        for name, value in vars(importlib.import_module(module.name)).items():
            if isinstance(value, JITFunction) and name.endswith("_kernel"):
                found[f"{value.__module__.split('.')[-2]}.{name}"] = value
    return found


def test_every_kernel_is_compiled_with_each_constant_on_and_off() -> None:
    launches = [variant.noted() for variant in variants()]
    assert {launch.name for launch in launches} == set(kernels())
    for name, kernel in kernels().items():
        for parameter in (p.name for p in kernel.params if p.is_constexpr and p.name != "PTX"):
            values = {launch.values[parameter] for launch in launches if launch.name == name}
            assert not isinstance(next(iter(values)), bool) or values == {False, True}, (name, parameter)


def constants(settings: LossSettings) -> tuple[object, ...]:
    (launch,) = (x for x in launches_of(settings) if x.name == LOSS_KERNEL)
    kept = launch.constants
    return tuple(value for name, value in kept.items() if name != "KL" or kept["HAS_KL"])


def launches_of(settings: LossSettings) -> list[Launch]:
    with noted_launches() as launches:
        _loss(settings)
    return launches


def test_every_loss_that_a_configuration_can_ask_for_is_among_the_variants() -> None:
    compiled = {constants(v.launch.args[0]) for v in variants(every_loss=True) if v.kernel == LOSS_KERNEL}
    asked = set()
    for values in product(*OPTIONS.values()):
        section = LossSection(**dict(zip(OPTIONS, values, strict=True)))
        asked.add(constants(LossSettings(**section.model_dump(include=set(losses.DEFAULTS)))))
    # masks and weights of whole sequences are numbers of one kernel, not kernels of their own
    assert asked <= compiled and len(asked) == 384


OPTIONS = {
    "ratio": ("none", "token", "sequence", "capped"),
    "dual_clip": (None, 1.5),
    "tis_cap": (None, 7.0),
    "tis_ratio": ("token", "product", "geometric_mean"),
    "kl_coef": (0.0, 1e-3),
    "kl_kind": ("k1", "k2", "k3"),
    "entropy_coef": (0.0, 1e-3),
    "token_mask": (None, (0.1, 9.0)),
    "sequence_mask": (None, (0.1, 9.0)),
    "sequence_mask_ratio": ("geometric_mean", "product", "worst_token"),
}


def test_where_losses_are_many_each_term_alone_and_all_together_are_compiled_every_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(compile_gate, "MANY", 0)
    often, every = ([v.name for v in variants(every_loss=every)] for every in (False, True))
    left_out = [name.split(", ") for name in every if name not in often]
    assert left_out and set(often) < set(every)
    for terms in left_out:
        assert 2 <= sum(" " not in term.removeprefix("policy_loss/") for term in terms) < 6
    everything = "tis_cap, kl_coef, entropy_coef, token_mask, sequence_mask"
    for ratio in ("none", "capped"):
        assert f"policy_loss/ratio {ratio}, {everything}" in often, "all that there is without a ratio to clip"


def test_a_new_option_of_the_loss_is_enumerated_without_being_told(monkeypatch: pytest.MonkeyPatch) -> None:
    class Section(LossSection):
        new_cap: PositiveFloat | None = None
        new_cap_kind: Literal["hard", "soft"] = "hard"

    @dataclass(frozen=True)
    class Settings(LossSettings):
        new_cap: float | None = None
        new_cap_kind: str = "hard"

    before = list(map(losses.described, losses.all_losses()))
    monkeypatch.setattr(losses, "LossSection", Section)
    monkeypatch.setattr(losses, "LossSettings", Settings)
    monkeypatch.setattr(losses, "DEFAULTS", losses.DEFAULTS | {"new_cap": None, "new_cap_kind": "hard"})
    found = list(map(losses.described, losses.all_losses()))
    assert len(set(found)) == len(found) == 3 * len(before) and set(before) < set(found)
    assert "new_cap_kind soft, new_cap" in found and "new_cap_kind soft" not in found


@pytest.mark.parametrize(
    "settings",
    [
        LossSettings(ratio="none"),
        LossSettings(ratio="capped", entropy_coef=0.1, token_mask=(0.5, 5.0), tis_cap=5.0),
        LossSettings(
            ratio="sequence",
            dual_clip=3.0,
            tis_cap=2.0,
            kl_coef=0.1,
            entropy_coef=0.1,
            token_mask=(0.5, 5.0),
            sequence_mask=(0.9, 1.1),
        ),
    ],
)
def test_a_loss_is_two_launches_forward_and_one_backward_whatever_its_options(settings: LossSettings) -> None:
    live, entropies = (empty(4096).requires_grad_() for _ in range(2))
    tokens, boundaries = empty(4096), empty(17, dtype=torch.int32)
    names = ("old_logprobs_R", "rollout_logprobs_R", "reference_logprobs_R")
    others = dict.fromkeys(names, tokens) | {"entropies_R": entropies}
    with counted_traffic() as forward:
        value = policy_loss(live, tokens, tokens, boundaries, settings, **others).loss
    with counted_traffic() as backward:
        value.backward(torch.empty_like(value))
    assert (sum(forward.launches.values()), sum(backward.launches.values())) == (2, 1), (forward, backward)


def test_an_innermost_loop_is_what_lies_between_a_branch_and_its_target() -> None:
    (body,) = loop_bodies(SASS)
    assert [line.split()[0] for line in body] == ["LDG.E.128", "LDG.E.U16", "LDGSTS.E.BYPASS.128", "@P0"]
    assert counted(body) == Loop(instructions=4, bytes_read=34, bytes_ahead=16)


@pytest.mark.parametrize(("pins", "name"), [("constraints.txt", "the pins"), ("gpu_image.txt", "the GPU image")])
def test_the_triton_of_each_set_of_versions_has_a_table_of_all_variants_without_spills(
    pins: str, name: str, root: Path
) -> None:
    (version,) = (
        line.removeprefix("triton==")
        for line in (root / "scripts" / pins).read_text().splitlines()
        if line.startswith("triton==")
    )
    figures = json.loads((TABLES / f"compiled_triton_{version}.json").read_text())["figures"]
    assert list(figures) == [f"{v.name} @ {target}" for v in variants() for target in v.targets], name
    assert {key for key, kernel in figures.items() if "sm_" in key and (kernel["spills"] or kernel["stack"])} == set()
