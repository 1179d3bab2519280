"""Our rope for packed sequences is megatron's on every context-parallel rank; parts are replaced where kernels run."""

from types import SimpleNamespace

import pytest
import torch
from egrc_kernels import registry

from egrc_mega.policy import distributed  # noqa: F401  (first: it points megatron at the CPU)

# isort: split
from megatron.core.models.common.embeddings.rope_utils import _apply_rotary_pos_emb_thd

from egrc_mega.policy import kernel_parts
from egrc_mega.policy.context import held_tokens
from egrc_mega.policy.kernel_parts import SwiGLU, _packed_rope, packed_positions, replaces_megatrons

BOUNDARIES = [0, 8, 12, 40, 44]


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (2, 0), (2, 1)])
def test_positions_and_rope_are_megatrons(size: int, rank: int) -> None:
    cu_seqlens = torch.tensor(BOUNDARIES, dtype=torch.int32)
    in_sequence = [i - max(b for b in BOUNDARIES if b <= i) for i in range(44)]
    held = held_tokens(BOUNDARIES, size, rank)
    assert packed_positions(cu_seqlens, len(held), size, rank).tolist() == [in_sequence[i] for i in held]

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(len(held), 3, 8, generator=generator)
    half = torch.outer(torch.arange(28.0), 10000.0 ** (-torch.arange(0, 8, 2) / 8))
    freqs = torch.cat([half, half], -1)[:, None, None]
    group = SimpleNamespace(size=lambda: size, rank=lambda: rank)
    expected = _apply_rotary_pos_emb_thd(x, cu_seqlens, freqs, cp_group=group)
    torch.testing.assert_close(_packed_rope(x, cu_seqlens, freqs, size, rank), expected, rtol=1e-6, atol=1e-6)


def test_a_micro_batch_has_one_table_of_angles_and_another_has_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    tables: list[tuple[torch.Tensor, ...]] = []
    monkeypatch.setattr(kernel_parts, "rope", lambda x, *table: tables.append(table) or x)
    boundaries = [torch.tensor(BOUNDARIES, dtype=torch.int32), torch.tensor([0, 44], dtype=torch.int32)]
    for cu_seqlens in boundaries:
        for heads in (3, 1):  # queries and keys; megatron makes the angles anew for a recomputed layer
            _packed_rope(torch.zeros(44, heads, 8), cu_seqlens, torch.rand(44, 1, 1, 8))
    first, again, other, _other_again = tables
    assert all(a is b for a, b in zip(first, again, strict=True))
    assert other[2].tolist() == list(range(44)) != first[2].tolist()


def test_megatrons_parts_stay_where_kernels_do_not_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(registry.VARIABLE, raising=False)
    assert not replaces_megatrons()


def test_swiglu_takes_gated_models_only() -> None:
    with pytest.raises(AssertionError, match="gated"):
        SwiGLU(SimpleNamespace(gated_linear_unit=False))
    x = torch.randn(2, 6)
    torch.testing.assert_close(
        SwiGLU(SimpleNamespace(gated_linear_unit=True))(x), torch.nn.functional.silu(x[:, :3]) * x[:, 3:]
    )
