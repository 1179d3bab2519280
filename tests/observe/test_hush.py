"""What megatron-core brings along into a process."""

import subprocess
import sys

import pytest

LOOK = """
import sys
import egrc_mega.policy.model
assert "megatron.core" in sys.modules and "wandb" not in sys.modules
import wandb
"""


def test_megatron_brings_no_wandb_and_whoever_wants_it_gets_it() -> None:
    pytest.importorskip("wandb")
    result = subprocess.run([sys.executable, "-P", "-c", LOOK], capture_output=True, text=True, timeout=300)
    assert result.returncode == 0, result.stderr
