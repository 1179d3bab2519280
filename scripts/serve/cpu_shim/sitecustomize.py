"""On the path of a CPU server of SGLang: three imports that assume CUDA or a kernel wheel are met halfway.

The server itself is the published one, unmodified. With EGRC_SGLANG_SEEDS=1 it also takes
`--enable-deterministic-inference` with the CPU's attention, so that seeds count; there are no batch-invariant kernels.
"""

import importlib.util
import os
import sys
from importlib.abc import MetaPathFinder


def _declare_torchvision_ops() -> None:
    """The published wheel is a CUDA build whose library cannot load; its import needs the schemas of two operators."""
    import torch

    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    _kept.append(library)


def _allow_cpu_attention(choices) -> None:
    choices.add_deterministic_attention_backend_choices(["torch_native"])
    choices.add_radix_supported_deterministic_attention_backend_choices(["torch_native"])


def _skip_invariant_kernels(ops) -> None:
    ops.enable_batch_invariant_mode = lambda *_args, **_kwargs: None


_kept: list = []
_before = {"torchvision": _declare_torchvision_ops}
_after = {}
if os.environ.get("EGRC_SGLANG_SEEDS") == "1":
    _after = {
        "sglang.srt.arg_groups.choices": _allow_cpu_attention,
        "sglang.srt.batch_invariant_ops.batch_invariant_ops": _skip_invariant_kernels,
    }


class _Hook(MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name in _before:
            _before.pop(name)()
            return None
        if name not in _after:
            return None
        patch = _after.pop(name)
        spec = importlib.util.find_spec(name)
        if spec is None or spec.loader is None:
            return None
        execute = spec.loader.exec_module

        def exec_module(module):
            execute(module)
            patch(module)

        spec.loader.exec_module = exec_module
        return spec


sys.meta_path.insert(0, _Hook())
