"""Keeps megatron-core's announcements off the user's screen, and what it would import in vain out of the process."""

import sys
import warnings
from collections.abc import Sequence
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec
from types import ModuleType


def hush_megatron() -> None:
    """Ignore its warnings at every import and first use: what it falls back from, `egrc doctor` says once."""
    warnings.filterwarnings("ignore", module=r"megatron\.")
    warnings.filterwarnings("ignore", message="Please use DTensor instead", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r"`load_state_dict` is deprecated", category=FutureWarning)
    warnings.filterwarnings("ignore", message=r".*torch\.distributed\..* is deprecated", category=FutureWarning)
    if not any(isinstance(finder, _NoWandb) for finder in sys.meta_path):
        sys.meta_path.insert(0, _NoWandb())


class _NoWandb(MetaPathFinder):
    """Has megatron-core begin as if wandb were not installed, while it is imported itself and no longer.

    It imports wandb wherever that is installed, to log what we never do; wandb then makes two temporary folders, which
    a process that is killed leaves behind, and takes half a second.
    """

    def find_spec(self, name: str, _path: Sequence[str] | None, _target: ModuleType | None = None) -> ModuleSpec | None:
        """No module of its own; an ImportError where megatron-core asks."""
        megatron = sys.modules.get("megatron.core")
        if name == "wandb" and getattr(getattr(megatron, "__spec__", None), "_initializing", False):
            raise ImportError("megatron-core needs no wandb", name=name)
        return None
