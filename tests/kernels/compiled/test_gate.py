"""Every shipped variant compiles for GPUs that are not here, and as well as it did: no spills, no more registers.

Not covered: wrong results, races, speed. AMD is asked to compile only; its figures stand in the table.
"""

import json

import pytest
import triton

from egrc_mega.testing.compile_gate import SHARED_LIMITS, compile_all, table_file, variants

pytestmark = pytest.mark.timeout(7200)
"""The first test compiles all variants: two minutes of a processor, and more where others use it too."""
NAMES = [f"{variant.name} @ {target}" for variant in variants() for target in variant.targets]


@pytest.fixture(scope="module")
def found() -> dict[str, dict]:
    often = {variant.name for variant in variants()}
    return compile_all(often.__contains__)


@pytest.fixture(scope="module")
def kept() -> dict[str, dict]:
    file = table_file(triton.__version__)
    assert file.exists(), "another Triton: write its table (python -m egrc_mega.testing.compile_gate --write)"
    return json.loads(file.read_text())["figures"]


@pytest.mark.parametrize("name", NAMES)
def test_a_variant_compiles_without_spills_and_no_worse_than_before(
    name: str, found: dict[str, dict], kept: dict[str, dict]
) -> None:
    figures, before, target = found[name], kept[name], name.split(" @ ")[1]
    assert figures["shared"] <= SHARED_LIMITS[target]
    assert figures["registers"] <= before["registers"], (figures, before)
    assert figures["shared"] <= before["shared"], (figures, before)
    assert figures.get("instructions", 0) <= before.get("instructions", 0), (figures, before)
    if target.startswith("sm_"):
        assert figures["spills"] == figures["stack"] == 0, figures


@pytest.mark.full
def test_no_loss_at_all_spills() -> None:
    """Where there are more than `MANY`, the other tests leave out those with some terms of several."""
    often = {variant.name for variant in variants()}
    found = compile_all(lambda name: name not in often)
    assert {name for name, figures in found.items() if figures["spills"] or figures["stack"]} == set()


PRODUCTS = ("linear_logprob/tiles", "linear_logprob/exponentials", "linear_logprob/gradients")


@pytest.mark.parametrize("name", [name for name in NAMES if name.startswith(PRODUCTS)])
def test_products_use_the_matrix_units(name: str, found: dict[str, dict]) -> None:
    target = name.split(" @ ")[1]
    assert found[name]["wgmma"] is (target == "sm_90")
    assert found[name]["tcgen05"] is (target == "sm_100")


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(
    ("variant", "size", "limit"),
    [
        ("bf16/one temperature", 2, 12.0),
        ("bf16/two temperatures", 2, 17.0),
        ("fp32/one temperature", 4, 13.0),
        ("fp32/two temperatures", 4, 20.0),
    ],
)
def test_a_row_of_logits_takes_few_instructions_an_element(
    variant: str, size: int, limit: float, target: str, found: dict[str, dict]
) -> None:
    """An H100 reads bf16 at full rate while it issues 20 instructions an element, and float32 while it issues 40."""
    figures = found[f"logprob/partials/{variant} @ {target}"]
    assert figures["loop"] * size / figures["loop_bytes"] <= limit, figures


@pytest.mark.parametrize("target", ["sm_80", "sm_90", "sm_100"])
@pytest.mark.parametrize(("hidden", "threads", "programs"), [(1536, 128, 4), (3584, 256, 2)])
def test_the_norms_backward_reads_its_next_row_while_it_computes_one(
    hidden: int, threads: int, programs: int, target: str, found: dict[str, dict]
) -> None:
    """And the registers leave room for so many programs a processor."""
    figures = found[f"rmsnorm/backward/{hidden} @ {target}"]
    row_bytes = 2 * 2 * (2048 if hidden == 1536 else 4096)
    assert figures["loop_bytes_ahead"] * threads >= row_bytes, figures
    assert programs * threads * figures["registers"] <= 65536, figures
