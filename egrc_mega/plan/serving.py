"""What a rollout server holds: its share of the weights, and keys and values of what it writes."""

from dataclasses import dataclass

from egrc_mega.errors import ConfigError
from egrc_mega.plan.gpus import Gpu
from egrc_mega.plan.model_facts import Model
from egrc_mega.sections.rollout import RolloutSection

DEFAULT_STATIC = 0.85
"""Share of the memory that SGLang takes for weights and cache where `--mem-fraction-static` is not given. Its own
default depends on the card and its flags; on cards of 80 GB it is near this."""


@dataclass(frozen=True, slots=True)
class ServerMemory:
    """Bytes on each GPU of a server."""

    weights: float
    kv_cache: float
    """What is left for keys and values; negative where not even the weights fit."""
    kv_bytes_per_token: float

    @property
    def kv_tokens(self) -> int:
        """Tokens whose keys and values fit."""
        return max(0, int(self.kv_cache // self.kv_bytes_per_token))


def server_memory(model: Model, gpu: Gpu, section: RolloutSection, resident_bytes: float = 0.0) -> ServerMemory:
    """How a server of the section uses a GPU.

    Args:
        resident_bytes: what the policy and its process hold on the same GPU, where servers are colocated.
    """
    tensor = section.tensor_parallel_size
    weights = model.served_bytes(tensor)
    pool = min(static_share(section) * gpu.memory_bytes, gpu.memory_bytes - resident_bytes)
    return ServerMemory(weights, pool - weights, model.kv_bytes_per_token(tensor))


def static_share(section: RolloutSection) -> float:
    """Share of a GPU's memory for weights and cache, of the server's flags where they name one.

    Raises:
        ConfigError: the flag's value is no share.
    """
    name, arguments = "--mem-fraction-static", section.sglang_args
    text = None
    for place, argument in enumerate(arguments):
        if argument.startswith(f"{name}="):
            text = argument.partition("=")[2]
        elif argument == name and place + 1 < len(arguments):
            text = arguments[place + 1]
    if text is None:
        return DEFAULT_STATIC
    try:
        share = float(text)
    except ValueError:
        share = 0.0
    if not 0 < share < 1:
        raise ConfigError(f"rollout.sglang_args: {name} is {text}, must be a share between 0 and 1, for instance 0.8")
    return share
