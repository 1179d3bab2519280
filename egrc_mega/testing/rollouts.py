"""Stored rollouts made by hand."""

from typing import Any

import numpy as np

from egrc_mega.observe.rollout_file import StoredGroup, StoredSample
from egrc_mega.types import VersionSpan


def make_stored_sample(length: int = 4, **changes: Any) -> StoredSample:
    """A sample whose arrays hold numbers of their own at every token."""
    fields: dict[str, Any] = {
        "text": f"thinking for {length} tokens </think> 1",
        "output_ids": np.arange(length, dtype=np.int32) + 100_000,
        "sampled": np.arange(length) % 3 != 1,
        "logprobs": -np.arange(length, dtype=np.float32) / 7,
        "entropies": None,
        "grade": "right",
        "well_formed": True,
        "truncated": False,
        "reward": 1.25,
        "terms": {"answer": 1.0, "format": 0.25},
        "advantage": 0.5,
        "kept": True,
        "versions": (VersionSpan(version="v3", start=0, end=length),),
    }
    return StoredSample(**(fields | changes))


def make_stored_group(*samples: StoredSample, key: str = "train.jsonl:7") -> StoredGroup:
    """A group of samples, of one when none is given."""
    return StoredGroup(key=key, prompt="9 a + 1 = ?", answer="0", samples=samples or (make_stored_sample(),))
