"""What each rank of a server must hold of every parameter, worked out again from SGLang's own rules, row by row."""

import hashlib
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.sync.checksums import Checksums, checksum
from egrc_mega.sync.gpu_hash import gpu_hash
from egrc_mega.testing.tiny_model import SIZES, write_tiny_model

Held = list[dict[str, list[torch.Tensor]]]
HEADS, GROUPS = SIZES["num_attention_heads"], SIZES["num_key_value_heads"]


def rows(tensor: torch.Tensor, rank: int, count: int, multiple: int = 1) -> torch.Tensor:
    """The rank's share of the rows, zeros behind the last one up to a multiple."""
    total = (len(tensor) + multiple - 1) // multiple * multiple
    filled = torch.cat([tensor, torch.zeros(total - len(tensor), *tensor.shape[1:])])
    return filled[rank * total // count : (rank + 1) * total // count]


def held(state: dict[str, torch.Tensor], count: int, is_cpu: bool) -> Held:
    """By rank and SGLang's name: the tensors that it lays end to end."""
    inner = 32 * count if is_cpu else 1
    found: Held = [{} for _ in range(count)]
    for rank, own in enumerate(found):
        for name, tensor in state.items():
            if name in ("model.embed_tokens.weight", "lm_head.weight"):
                own[name] = [rows(tensor, rank, count, 64)]
            elif "q_proj" in name:
                others = [state[name.replace("q_proj", f"{letter}_proj")] for letter in "kv"]
                if count > GROUPS:
                    group = rank // (count // GROUPS)
                    shared = [rows(other, group, GROUPS) for other in others]
                else:
                    shared = [rows(other, rank, count) for other in others]
                own[name.replace("q_proj", "qkv_proj")] = [rows(tensor, rank, count), *shared]
            elif "gate_proj" in name:
                up = state[name.replace("gate_proj", "up_proj")]
                parts = [rows(part, rank, count, inner) for part in (tensor, up)]
                own[name.replace("gate_proj", "gate_up_proj")] = parts
            elif "down_proj" in name or "o_proj" in name:
                turned = rows(tensor.T.contiguous(), rank, count, inner if "mlp" in name else 1)
                own[name] = [turned.T.contiguous()]
            elif "norm" in name:
                own[name] = [tensor]
            else:
                assert any(part in name for part in ("k_proj", "v_proj", "up_proj")), name
    return found


def hashed(parts: list[torch.Tensor], device: str) -> str:
    flat = torch.cat([part.reshape(-1) for part in parts])
    return checksum(flat) if device == "cpu" else gpu_hash(flat)


def checksums_of(folder: Path, ranks: list[int], device: str) -> tuple[dict[str, torch.Tensor], Checksums]:
    state = load_file(folder / "model.safetensors")
    found = Checksums(read_architecture(folder), torch.float32, ranks, device)  # type: ignore[arg-type]
    assert [name for name, _tensor in found.watch(iter(state.items()))] == list(state)
    return state, found


@pytest.mark.parametrize("device", ["cpu", "cuda"])
@pytest.mark.parametrize("count", [1, 2, 4])
@pytest.mark.parametrize("family", ["Qwen2", "Llama"])
def test_every_rank_is_expected_to_hold_its_share(family: str, count: int, device: str, tmp_path: Path) -> None:
    # a vocabulary that no smaller padding would bring to the same size
    state, found = checksums_of(write_tiny_model(family, tmp_path / "model", vocab_size=70), [count], device)
    expected = [
        {name: hashed(parts, device) for name, parts in own.items()} for own in held(state, count, device == "cpu")
    ]
    assert found.by_rank[count] == expected
    # the whole under the names of the folder, for servers that neither join nor split
    assert found.whole == {name: hashed([tensor], device) for name, tensor in state.items()}


def test_a_digest_is_the_first_eight_bytes_of_sha_256() -> None:
    raw = torch.arange(5, dtype=torch.float32)
    assert checksum(raw) == hashlib.sha256(raw.numpy().tobytes()).digest()[:8].hex()


class Model:
    """A family's expectations, and a server on so many ranks that holds exactly that."""

    def __init__(self, family: str, folder: Path, count: int, **fields: Any) -> None:
        _state, self.checksums = checksums_of(write_tiny_model(family, folder, **fields), [1, 2], "cpu")
        self.served = [dict(rank) for rank in self.checksums.by_rank[count]]

    def difference(self) -> str | None:
        return self.checksums.difference(self.served)


@pytest.mark.parametrize("count", [1, 2])
def test_any_parameter_of_any_rank_that_is_missing_another_or_too_much_is_a_difference(
    count: int, tmp_path: Path
) -> None:
    model = Model("Qwen2", tmp_path / "model", count)
    assert model.difference() is None
    for rank, own in enumerate(model.served):
        for name in list(own):
            right = own[name]
            own[name] = "0" * 16
            assert model.difference() == f"{name} on rank {rank} is {'0' * 16}, the trainer's is {right}"
            del own[name]
            assert model.difference() == f"{name} on rank {rank} is None, the trainer's is {right}"
            own[name] = right
        own["model.another"] = "0" * 16
        assert model.difference() == f"model.another on rank {rank} is {'0' * 16}, the trainer's is None"
        del own["model.another"]
    model.served *= 3
    assert model.difference() == f"it has parameters on {3 * count} ranks, and said [1, 2] before"


def test_a_server_under_the_folders_names_is_held_against_the_whole_tensors(tmp_path: Path) -> None:
    model = Model("Qwen2", tmp_path / "model", 1)
    model.served = [dict(model.checksums.whole)]
    assert model.difference() is None
    name = "model.layers.1.mlp.up_proj.weight"
    model.served[0][name] = "0" * 16
    assert model.difference() == f"{name} on rank 0 is {'0' * 16}, the trainer's is {model.checksums.whole[name]}"


def test_an_output_layer_of_its_own_may_be_left_out_of_the_list_and_not_differ(tmp_path: Path) -> None:
    """A server that ties it lists it nowhere, or twice under one checksum."""
    model = Model("Qwen2", tmp_path / "model", 1, tie_word_embeddings=False)
    right = model.served[0].pop("lm_head.weight")
    assert model.difference() is None
    model.served[0]["lm_head.weight"] = "0" * 16
    assert model.difference() == f"lm_head.weight on rank 0 is {'0' * 16}, the trainer's is {right}"


def test_what_was_sent_may_change_afterwards(tmp_path: Path) -> None:
    """The trainer gathers into the same memory again: an entry of several tensors is hashed when its last one comes."""
    folder = write_tiny_model("Qwen2", tmp_path / "model")
    state = load_file(folder / "model.safetensors")
    found = Checksums(read_architecture(folder), torch.float32, [1], "cpu")
    for _name, tensor in found.watch((name, tensor.clone()) for name, tensor in state.items()):
        tensor.zero_()
    expected = {name: hashed(parts, "cpu") for name, parts in held(state, 1, is_cpu=True)[0].items()}
    assert found.by_rank[1] == [expected]
