"""What kind of policy loss: one frozen record, checked once."""

from dataclasses import dataclass

RATIOS, KLS = ("none", "token", "sequence"), ("k1", "k2", "k3")


@dataclass(frozen=True, slots=True)
class LossSettings:
    """Which loss `policy_loss` computes; the README has the formulas of every option.

    Raises:
        ValueError: a value outside its range.
    """

    ratio: str = "token"
    """none: -A log pi; token: PPO's ratio; sequence: one ratio for each sequence (GSPO)."""
    eps_clip: float = 0.2
    """Lower clip of the ratio: 1 - eps_clip."""
    eps_clip_high: float = 0.2
    """Upper clip of the ratio: 1 + eps_clip_high."""
    dual_clip: float | None = None
    """Bound on the loss of a negative advantage, as a multiple of it."""
    tis_cap: float | None = None
    """Weight by min(cap, old / rollout probability)."""
    kl_coef: float = 0.0
    """Weight of the KL term to the reference."""
    kl_kind: str = "k3"
    """Estimator of the KL term."""

    def __post_init__(self) -> None:
        for name, value, allowed in (("ratio", self.ratio, RATIOS), ("kl_kind", self.kl_kind, KLS)):
            if value not in allowed:
                raise ValueError(f"{name} must be one of {', '.join(allowed)}, got {value!r}")
        if not (0 < self.eps_clip < 1 and self.eps_clip_high > 0):
            raise ValueError(f"eps_clip must be in (0, 1) and eps_clip_high positive, got {self.eps_clip}")
        if self.dual_clip is not None and not self.dual_clip > 1:
            raise ValueError(f"dual_clip must exceed 1, got {self.dual_clip}")
        if self.tis_cap is not None and not self.tis_cap > 0:
            raise ValueError(f"tis_cap must be positive, got {self.tis_cap}")
        if not self.kl_coef >= 0:
            raise ValueError(f"kl_coef must not be negative, got {self.kl_coef}")
