"""How far a token is trusted whose sampler and trainer disagree, in plain PyTorch: weights and masks."""

from dataclasses import dataclass

import torch

from egrc_kernels.policy_loss.settings import LossSettings, Range


@dataclass(frozen=True, slots=True)
class Sequences:
    """Which tokens belong together: S sequences of R tokens."""

    is_used_R: torch.Tensor
    number_R: torch.Tensor
    """Of each token's sequence."""
    lengths_S: torch.Tensor
    """Tokens of each sequence, used or not."""

    @classmethod
    def of(cls, is_used_R: torch.Tensor, boundaries_S: torch.Tensor) -> "Sequences":
        """From where sequences begin and end."""
        lengths_S = boundaries_S.diff().long()
        numbers = torch.arange(len(lengths_S), device=is_used_R.device)
        return cls(is_used_R, numbers.repeat_interleave(lengths_S, output_size=len(is_used_R)), lengths_S)

    def total(self, values_R: torch.Tensor) -> torch.Tensor:
        """[S] sum of each sequence over all its tokens; 0 where there is none."""
        return torch.zeros_like(self.lengths_S, dtype=values_R.dtype).index_add(0, self.number_R, values_R)

    def mean(self, values_R: torch.Tensor, among_R: torch.Tensor | None = None) -> torch.Tensor:
        """[S] mean of each sequence over its used tokens, or over those `among_R`; 0 where there is none."""
        among_R = (self.is_used_R if among_R is None else among_R).to(values_R.dtype)
        return self.total(values_R * among_R) / self.total(among_R).clamp(min=1)

    def extreme(self, values_R: torch.Tensor, which: str) -> torch.Tensor:
        """[S] the least (`amin`) or greatest (`amax`) value of each sequence, or 0 where that is beyond."""
        return torch.zeros_like(self.lengths_S, dtype=values_R.dtype).scatter_reduce(
            0, self.number_R, values_R, which, include_self=True
        )


@dataclass(frozen=True, slots=True)
class Trust:
    """What the servers' log-probs make of the policy term."""

    tis_R: torch.Tensor
    """Weight of truncated importance sampling."""
    is_masked_R: torch.Tensor
    """The token, or its whole sequence, teaches nothing."""
    num_masked_sequences: torch.Tensor


def trusted(old_R: torch.Tensor, rollout_R: torch.Tensor | None, sequences: Sequences, settings: LossSettings) -> Trust:
    """The weights and masks of all tokens. Where the server's log-prob is unknown the ratio counts as 1."""
    is_used_R, nothing = sequences.is_used_R, torch.zeros((), device=old_R.device)
    if not settings.compares_servers or rollout_R is None:
        return Trust(torch.ones_like(old_R), torch.zeros_like(is_used_R), nothing)
    is_known_R = is_used_R & ~rollout_R.isnan()
    shifts_R = torch.where(is_known_R, old_R - rollout_R, 0.0)
    tis_R = _tis_weights(shifts_R, is_known_R, sequences, settings)
    is_masked_R = torch.zeros_like(is_used_R)
    if settings.token_mask is not None:
        ratios_R = shifts_R.exp()
        is_masked_R = _is_outside(ratios_R, ratios_R, settings.token_mask)
    if settings.sequence_mask is None:
        return Trust(tis_R, is_masked_R, nothing)
    if settings.sequence_mask_ratio == "worst_token":
        least_S, most_S = (sequences.extreme(shifts_R, which).exp() for which in ("amin", "amax"))
    else:
        least_S = most_S = _of_sequences(shifts_R, is_known_R, sequences, settings.sequence_mask_ratio)
    is_masked_S = _is_outside(least_S, most_S, settings.sequence_mask)
    is_masked_R = is_masked_R | (is_masked_S[sequences.number_R] & is_used_R)
    return Trust(tis_R, is_masked_R, is_masked_S.sum())


def _tis_weights(
    shifts_R: torch.Tensor, is_known_R: torch.Tensor, sequences: Sequences, settings: LossSettings
) -> torch.Tensor:
    if settings.tis_cap is None:
        return torch.ones_like(shifts_R)
    if settings.tis_ratio == "token":
        return shifts_R.exp().clamp(max=settings.tis_cap)
    ratios_S = _of_sequences(shifts_R, is_known_R, sequences, settings.tis_ratio)
    return ratios_S.clamp(max=settings.tis_cap)[sequences.number_R]


def _of_sequences(shifts_R: torch.Tensor, is_known_R: torch.Tensor, sequences: Sequences, ratio: str) -> torch.Tensor:
    """[S] product or geometric mean of the ratios whose logs are the shifts; those of unknown tokens are 0."""
    logs_S = sequences.total(shifts_R) if ratio == "product" else sequences.mean(shifts_R, is_known_R)
    return logs_S.exp()


def _is_outside(least: torch.Tensor, most: torch.Tensor, trusted: Range) -> torch.Tensor:
    return (least < trusted[0]) | (most > trusted[1])
