"""Every shipped variant compiles for GPUs that are not here, and as well as it did: no spills, no more registers.

Not covered: wrong results, races, speed. AMD is asked to compile only; its figures stand in the table.
"""

import json

import pytest
import triton

from egrc_mega.testing.compile_gate import SHARED_LIMITS, TABLE, compile_all, variants

NAMES = [f"{variant.name} @ {target}" for variant in variants() for target in variant.targets]


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    return compile_all()


@pytest.fixture(scope="module")
def kept() -> dict[str, dict]:
    table = json.loads(TABLE.read_text())
    assert table["triton"] == triton.__version__, "another Triton: look at the figures and write the table again"
    return table["figures"]


def test_the_table_has_every_variant_and_no_other(kept: dict[str, dict]) -> None:
    assert list(kept) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_compiles_without_spills_and_no_worse_than_before(
    name: str, found: dict[str, dict], kept: dict[str, dict]
) -> None:
    figures, before, target = found[name], kept[name], name.split(" @ ")[1]
    assert figures["shared"] <= SHARED_LIMITS[target]
    assert figures["registers"] <= before["registers"], (figures, before)
    assert figures["shared"] <= before["shared"], (figures, before)
    if target.startswith("sm_"):
        assert figures["spills"] == figures["stack"] == 0, figures


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith("linear_logprob/tiles")])
def test_products_use_the_matrix_units_and_specialised_warps(name: str, found: dict[str, dict]) -> None:
    target = name.split(" @ ")[1]
    assert found[name]["wgmma"] is (target == "sm_90")
    assert found[name]["tcgen05"] is (target == "sm_100")
    assert found[name]["setmaxnreg"] is (target == "sm_90")
