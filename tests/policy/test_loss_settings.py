"""A stage's loss section and the kernel's settings are one contract in two packages: names and bounds agree."""

from dataclasses import fields

import pytest
from egrc_kernels.policy_loss import LossSettings
from pydantic import ValidationError

from egrc_mega.sections.stage import LossSection

MASKS = ("token_mask", "sequence_mask")


def test_a_section_has_every_option_of_the_kernel() -> None:
    assert {field.name for field in fields(LossSettings)} <= set(LossSection.model_fields)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("ratio", "tokens"),
        ("eps_clip", 0.0),
        ("eps_clip", 1.0),
        ("eps_clip_high", 0.0),
        ("dual_clip", 1.0),
        ("tis_cap", 0.0),
        ("kl_coef", -1e-9),
        ("kl_kind", "k4"),
        ("entropy_coef", -1e-9),
        *((name, mask) for name in MASKS for mask in ((1.0, 2.0), (0.5, 1.0), (-0.1, 2.0), (2.0, 0.5))),
        ("sequence_mask_ratio", "median"),
        ("tis_ratio", "sequence"),
    ],
)
def test_what_the_kernel_refuses_a_section_refuses_first(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        LossSettings(**{name: value})
    with pytest.raises(ValidationError, match=name):
        LossSection(**{name: value})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *(("ratio", ratio) for ratio in ("none", "token", "sequence", "capped")),
        ("eps_clip", 0.999),
        ("eps_clip_high", 1e-9),
        ("dual_clip", 1.001),
        ("dual_clip", None),
        ("tis_cap", 1e-9),
        ("kl_coef", 0.0),
        *(("kl_kind", kind) for kind in ("k1", "k2", "k3")),
        ("entropy_coef", 0.0),
        *((name, mask) for name in MASKS for mask in (None, (0.0, 1.001), (0.999, 1e9))),
        *(("sequence_mask_ratio", ratio) for ratio in ("geometric_mean", "product", "worst_token")),
        *(("tis_ratio", ratio) for ratio in ("token", "geometric_mean", "product")),
    ],
)
def test_what_a_section_takes_the_kernel_takes(name: str, value: object) -> None:
    section = LossSection(**{name: value})
    assert getattr(LossSettings(**{name: getattr(section, name)}), name) == value
