"""What the compile gate is made of: noted launches, their specialisations, loops in machine code, and kept tables."""

import json
from pathlib import Path

import pytest
import torch
from egrc_kernels.logprob import triton as rows
from egrc_kernels.policy_loss import LossSettings
from egrc_kernels.policy_loss import triton as loss
from egrc_kernels.rmsnorm import triton as norm
from triton.backends.compiler import GPUTarget
from triton.runtime import JITFunction

from egrc_mega.testing.compile_gate import TABLES, variants
from egrc_mega.testing.launches import Launch, noted_launches
from egrc_mega.testing.sass import Loop, counted, loop_bodies

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
            loss.loss_gradient_metrics(*[tokens] * 5, None, boundaries, LossSettings())
            norm.rmsnorm_backward(x[:count], x[:count], x[0], empty(count))
        found.append([launch.source(H100)[0].hash() for launch in launches])
    assert found[0] == found[1] == found[2] and len(set(found[0])) == 3


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
