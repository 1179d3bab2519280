"""Our hash of GPU tensors against SGLang's own kernel, which Triton's interpreter runs on the CPU."""

import os
import subprocess

import orjson
import torch

from egrc_mega.rollout.start.sglang import find_python
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync.gpu_hash import gpu_hash

CASES = ((1, "bfloat16"), (3, "bfloat16"), (100, "float32"), (8192, "float32"), (8193, "float32"), (50001, "bfloat16"))
SCRIPT = """
import importlib.util, json, pathlib, sys, torch
package = importlib.util.find_spec("sglang").submodule_search_locations[0]
spec = importlib.util.spec_from_file_location("its", pathlib.Path(package, "kernels/ops/memory/gpu_tensor_hash.py"))
its = importlib.util.module_from_spec(spec)
spec.loader.exec_module(its)

def words(tensor):  # as its own, which asks for a GPU
    raw = tensor.contiguous().reshape(-1).view(torch.uint8)
    return torch.nn.functional.pad(raw, (0, -raw.numel() % 4)).view(torch.uint32)

class OnGpu(torch.Tensor):
    is_cuda = True

its._as_uint32_words = words
found = []
for count, dtype in json.loads(sys.argv[1]):
    found.append(f"{its.gpu_tensor_hash((torch.arange(count) / 7).to(getattr(torch, dtype)).as_subclass(OnGpu)):016x}")
print(json.dumps(found))
"""


def test_a_gpu_tensor_has_the_hash_that_sglangs_kernel_gives_it() -> None:
    command = [str(find_python(RolloutSection(server="sglang"))), "-P", "-c", SCRIPT, orjson.dumps(CASES).decode()]
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    finished = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert finished.returncode == 0, finished.stderr
    theirs = orjson.loads(finished.stdout.splitlines()[-1])
    assert [gpu_hash((torch.arange(count) / 7).to(getattr(torch, dtype))) for count, dtype in CASES] == theirs
