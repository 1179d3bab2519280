"""What kind of policy loss: one frozen record, checked once."""

from collections.abc import Iterator
from dataclasses import dataclass

RATIOS, KLS = ("none", "token", "sequence", "capped"), ("k1", "k2", "k3")
SEQUENCE_RATIOS = ("geometric_mean", "product", "worst_token")
TIS_RATIOS = ("token", "geometric_mean", "product")

Range = tuple[float, float]
"""Lowest and highest ratio that is trusted; 1 lies between them."""


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Which loss `policy_loss` computes; the README has the formulas of every option.

    Raises:
        ValueError: a value outside its range.
    """

    ratio: str = "token"
    """none: -A log pi; token: PPO's ratio; sequence: one ratio for each sequence (GSPO); capped: -A min(1 +
    eps_clip_high, r) log pi, the capped ratio without gradient (CISPO)."""
    eps_clip: float = 0.2
    """Lower clip of the ratio: 1 - eps_clip."""
    eps_clip_high: float = 0.2
    """Upper clip of the ratio: 1 + eps_clip_high."""
    dual_clip: float | None = None
    """Bound on the loss of a negative advantage, as a multiple of it."""
    tis_cap: float | None = None
    """Weight by min(cap, old / rollout probability)."""
    tis_ratio: str = "token"
    """Whose ratio `tis_cap` truncates: the token's own, or the geometric mean or product of those of its sequence."""
    kl_coef: float = 0.0
    """Weight of the KL term to the reference."""
    kl_kind: str = "k3"
    """Estimator of the KL term."""
    entropy_coef: float = 0.0
    """Weight of the entropy, which the loss rewards."""
    token_mask: Range | None = None
    """Tokens whose old / rollout probability lies outside teach nothing."""
    sequence_mask: Range | None = None
    """Sequences whose `sequence_mask_ratio` lies outside teach nothing."""
    sequence_mask_ratio: str = "geometric_mean"
    """Of old / rollout probability: its geometric mean or its product over the tokens, or that of any single token."""

    def __post_init__(self) -> None:
        for problem in self._problems():
            raise ValueError(problem)

    def _problems(self) -> Iterator[str]:
        for name, allowed in _WORDS.items():
            if getattr(self, name) not in allowed:
                yield f"{name} must be one of {', '.join(allowed)}, got {getattr(self, name)!r}"
        if not (0 < self.eps_clip < 1 and self.eps_clip_high > 0):
            yield f"eps_clip must be in (0, 1) and eps_clip_high positive, got {self.eps_clip}"
        if self.dual_clip is not None and not self.dual_clip > 1:
            yield f"dual_clip must exceed 1, got {self.dual_clip}"
        if self.tis_cap is not None and not self.tis_cap > 0:
            yield f"tis_cap must be positive, got {self.tis_cap}"
        for name in ("kl_coef", "entropy_coef"):
            if not getattr(self, name) >= 0:
                yield f"{name} must not be negative, got {getattr(self, name)}"
        for name in ("token_mask", "sequence_mask"):
            trusted = getattr(self, name)
            if trusted is not None and not 0 <= trusted[0] < 1 < trusted[1]:
                yield f"{name} must be [low, high] with 0 <= low < 1 < high, got {trusted}"

    @property
    def compares_servers(self) -> bool:
        """Whether a term looks at the servers' log-probs."""
        return any(option is not None for option in (self.tis_cap, self.token_mask, self.sequence_mask))

    @property
    def has_token_tis(self) -> bool:
        """Whether each token has a weight of importance of its own."""
        return self.tis_cap is not None and self.tis_ratio == "token"

    @property
    def has_sequence_tis(self) -> bool:
        """Whether the tokens of a sequence have one weight of importance."""
        return self.tis_cap is not None and self.tis_ratio != "token"


_WORDS = {"ratio": RATIOS, "kl_kind": KLS, "sequence_mask_ratio": SEQUENCE_RATIOS, "tis_ratio": TIS_RATIOS}
