"""Where in its thinking a response has come to the answer."""

import numpy as np

from egrc_mega.errors import DataError
from egrc_mega.types import Sample


def answered_after(sample: Sample) -> int:
    """Tokens of thinking up to the gold answer, that included; 0 where it never stands there.

    A recorded batch states it, as `valid_prefix`; else the sample must have its `token_ends`. The answer is looked for
    as it is written in the data: a model that reads would find it in other words too.

    Raises:
        DataError: a recorded batch has thinking that is longer than its response.
    """
    if (sample.think_length or 0) > sample.length:
        raise DataError(
            f"{sample.problem.key}: a response of {sample.length} tokens cannot hold {sample.think_length} of thinking "
            f"and its end; mend `length` or `think_len` of the batch"
        )
    if "valid_prefix" in sample.ask.facts:
        return int(sample.ask.facts["valid_prefix"])
    place = sample.text.find(sample.problem.answer)
    if place < 0 or sample.token_ends is None:
        return 0
    tokens = int(np.searchsorted(sample.token_ends, place + len(sample.problem.answer))) + 1
    return tokens if tokens < (sample.think_length or 0) else 0
