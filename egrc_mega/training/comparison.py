"""Compares what two checkpoints compute: logits of the same packed prompts, of whatever format each checkpoint is.

Both are computed in float32 whatever their own dtype, so that a difference is a mistake or rounding, and rounding has a
bound: transformers computes the same bits in float64, too, and no sound implementation is many times farther from
itself than float32 is from that.
"""

import random
from dataclasses import dataclass
from pathlib import Path

import torch

from egrc_mega.convert.hf_logits import hf_logits
from egrc_mega.convert.source import HfSource, Source, open_source
from egrc_mega.policy import distributed
from egrc_mega.sections.policy import MegatronSection

# isort: split
from egrc_mega.policy.logits import packed_logits
from egrc_mega.policy.model import build_model, transformer_config
from egrc_mega.policy.weights import import_hf

LENGTHS = (7, 33, 1, 20, 96)
MAX_LENGTH = 1024
SEED = 0
NOISE_FACTOR = 16
"""Two float32 implementations may differ by so many times what float32 itself is off."""
FLOOR = 16 * torch.finfo(torch.float32).eps
"""Times the largest logit: the least that is asked, where a small model's rounding happens to vanish."""


@dataclass(frozen=True, slots=True)
class LogitComparison:
    """What a comparison of logits found, over all positions of all prompts."""

    largest: float
    """Largest absolute difference."""
    bound: float
    """What rounding can explain."""
    num_positions: int
    num_same_choice: int
    """Positions at which both hold the same token for the likeliest."""
    largest_kl: float
    """Largest KL divergence of the one's distribution from the other's at a position, in nats."""
    num_nan: int
    """Positions at which one of them, or both, holds logits that are no numbers: nothing can be said of those."""

    @property
    def are_equal(self) -> bool:
        """Whether rounding explains the difference."""
        return self.num_nan == 0 and self.largest <= self.bound

    def line(self) -> str:
        """What was found, in one line for people."""
        strange = f"; {self.num_nan} positions have logits that are no numbers" if self.num_nan else ""
        return (
            f"logits in float32 differ by at most {self.largest:.3g} (rounding explains up to {self.bound:.3g}); the "
            f"likeliest token agrees at {self.num_same_choice} of {self.num_positions} positions, KL is at most "
            f"{self.largest_kl:.3g}{strange}"
        )


def compare_logits(a: Path, b: Path, model: Path | None = None) -> LogitComparison:
    """Compare the logits of packed random prompts, one longer than the window that config.json speaks of.

    Windows in effect are refused; a prompt of up to `MAX_LENGTH` tokens shows an implementation that obeys one
    nevertheless.

    A Hugging Face folder is computed by transformers, prompt by prompt; a Megatron checkpoint by megatron-core, packed.
    So two folders of different format are also computed by two implementations.

    Raises:
        EgrcError: one of them cannot be read.
    """
    sources = [open_source(path, model) for path in (a, b)]
    prompts = _prompts(sources[0])
    computed = [_logits(source, prompts) for source in sources]
    (x, _), (y, _) = computed
    noise = max(noise for _logits, noise in computed)
    likely_x, likely_y = x.log_softmax(-1), y.log_softmax(-1)
    return LogitComparison(
        largest=float((x - y).abs().nan_to_num(torch.inf).max()),
        bound=NOISE_FACTOR * noise + FLOOR * float(x.abs().max()),
        num_positions=len(x),
        num_same_choice=int((x.argmax(-1) == y.argmax(-1)).sum()),
        num_nan=int((~(x + y).isfinite()).any(-1).sum()),
        largest_kl=float((likely_x.exp() * (likely_x - likely_y)).sum(-1).max()),
    )


def _prompts(source: Source) -> list[list[int]]:
    rng, architecture = random.Random(SEED), source.architecture
    window = architecture.record.get("sliding_window")
    beyond = [window.value + 9] if window and isinstance(window.value, int) else []
    limit = min(MAX_LENGTH, architecture.model_fields["max_sequence_length"])
    lengths = [min(length, limit) for length in (*LENGTHS, *beyond)]
    return [[rng.randrange(architecture.vocab_size) for _ in range(length)] for length in lengths]


def _logits(source: Source, prompts: list[list[int]]) -> tuple[torch.Tensor, float]:
    """Logits in float32, as float64 [tokens, vocabulary], and how far float32 is off, where that is known."""
    if isinstance(source, HfSource):
        single = hf_logits(source.path, prompts, torch.float32).double()
        return single, float((single - hf_logits(source.path, prompts, torch.float64)).abs().max())
    section = MegatronSection(bf16=False)
    with distributed.world_of_one(section):
        model = build_model(source.architecture, transformer_config(source.architecture, section))
        import_hf(model, source)
        return packed_logits(model, source.architecture, prompts).cpu().double(), 0.0
