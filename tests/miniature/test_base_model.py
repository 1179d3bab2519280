"""The shipped base model is the one that is meant, and its recipe has the rates that it says."""

import hashlib
from pathlib import Path

import pytest

from egrc_mega.miniature.base_model import BLOCK_LEARNING_RATES, SHIPPED_SHA256, STEPS_PER_BLOCK, learning_rate


def test_the_shipped_weights_have_their_hash_and_size(base_model: Path) -> None:
    data = (base_model / "model.safetensors").read_bytes()
    assert hashlib.sha256(data).hexdigest() == SHIPPED_SHA256
    assert sum(file.stat().st_size for file in base_model.iterdir()) < 2**20


def test_each_block_warms_up_and_decays_to_a_twentieth() -> None:
    for block, peak in enumerate(BLOCK_LEARNING_RATES):
        rates = [learning_rate(block * STEPS_PER_BLOCK + i) for i in range(STEPS_PER_BLOCK)]
        assert rates[0] == pytest.approx(peak / 50)
        assert 0.8 * peak < max(rates) <= peak
        assert rates[-1] == pytest.approx(0.05 * peak, rel=0.01)
