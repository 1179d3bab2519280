"""Per-token lists of a reply as arrays, every value checked. Shape suffixes: O sampled tokens, M ids of all masks."""

from itertools import chain
from typing import Any

import numpy as np

from egrc_mega.sampling_mask import SamplingMask

MASK_EDGE = -1
"""No id: stands between the masks of two tokens."""


class Wrong(Exception):
    """What is wrong with a reply, in words."""


def integers(values: Any, where: str) -> np.ndarray:
    """[O] int64 of a list of integers; no bool and no float passes as one."""
    found = _array(values, where)
    if found.dtype == np.int64:
        # numpy takes True for 1 and False for 0, and has no other way to hide a bool among integers
        doubtful = np.flatnonzero((found == 0) | (found == 1)).tolist()
        if all(type(values[i]) is int for i in doubtful):
            return found
    wrong = next((i for i, value in enumerate(values) if type(value) is not int), 0)
    raise Wrong(f"{where}.{wrong}: Input should be a valid integer")


def _numbers(values: Any, where: str) -> np.ndarray:
    """[O] float64 of a list of numbers."""
    found = _array(values, where)
    if found.dtype in (np.float64, np.int64):
        return found.astype(np.float64)
    wrong = next((i for i, value in enumerate(values) if type(value) not in (float, int)), 0)
    raise Wrong(f"{where}.{wrong}.0: Input should be a valid number")


def _array(values: Any, where: str) -> np.ndarray:
    """Of whatever type numpy finds in a list; float64 when there is nothing in it that it could tell from."""
    if not isinstance(values, list):
        raise Wrong(f"{where}: Input should be a valid list")
    if not values:
        return np.zeros(0, np.int64)
    try:
        found = np.array(values)
    except ValueError:  # lists of different lengths in it
        return np.zeros(len(values), object)
    return found if found.ndim == 1 else np.zeros(len(values), object)


def columns(rows: Any) -> tuple[np.ndarray, np.ndarray]:
    """[O] log-probs, float64, and [O] ids, int64, of rows `[log-prob, id, text]`, each by itself or all in one row."""
    where = "meta_info.output_token_logprobs"
    if not isinstance(rows, list):
        raise Wrong(f"{where}: Input should be a valid list")
    if not set(map(type, rows)) <= {list}:
        raise Wrong(f"{where}: Input should be a valid tuple")
    cells = rows[0] if len(rows) == 1 else list(chain.from_iterable(rows))
    is_one_row = len(rows) == 1 and len(cells) % 3 == 0 and len(cells) > 0
    if not is_one_row and any(len(row) != 3 for row in rows):
        raise Wrong(f"{where}: a row has not its three values")
    texts = cells[2::3]
    if texts.count(None) != len(texts) and not all(text is None or isinstance(text, str) for text in texts):
        raise Wrong(f"{where}: the third value of a row should be a valid string or null")
    return _numbers(cells[0::3], where), integers(cells[1::3], where)


def masks(rows: Any, logprobs: Any, ids_O: np.ndarray) -> tuple[SamplingMask, np.ndarray]:
    """What each token was drawn from, and [O] its log-prob among those, float64.

    Args:
        rows: a list of ids for each token, or all in one row with `MASK_EDGE` between two tokens'.
        logprobs: a number for each token.
        ids_O: the tokens.
    """
    where = "meta_info.output_token_sampling_mask"
    if rows is None or logprobs is None:
        raise Wrong(f"{where}: missing, and without it rollout.top_k cannot be trained with; SGLang 0.5.23 names it")
    if not isinstance(rows, list) or not set(map(type, rows)) <= {list}:
        raise Wrong(f"{where}: Input should be a list of lists")
    found_O = _numbers(logprobs, "meta_info.output_token_sampling_logprobs")
    ids_M, token_M, num_rows = _rows_of_ids(rows, where)
    if not num_rows == len(found_O) == len(ids_O):
        raise Wrong(f"{len(ids_O)} ids, {num_rows} sampling masks and {len(found_O)} log-probs over them")
    is_drawn_M = ids_M == ids_O[token_M]
    if np.bincount(token_M[is_drawn_M], minlength=num_rows).tolist() != [1] * num_rows:
        raise Wrong(f"{where}: a token does not stand once in its own mask")
    if not np.diff(np.sort(token_M * 2**32 + ids_M)).all():
        raise Wrong(f"{where}: an id stands twice in a mask")
    return SamplingMask(ids_M.astype(np.int32), np.bincount(token_M, minlength=num_rows).astype(np.int32)), found_O


def _rows_of_ids(rows: list[list[Any]], where: str) -> tuple[np.ndarray, np.ndarray, int]:
    """[M] ids, [M] the row of each, and the number of rows."""
    if len(rows) != 1:
        ids_M = integers(list(chain.from_iterable(rows)), where)
        return ids_M, np.repeat(np.arange(len(rows)), list(map(len, rows))), len(rows)
    cells = integers(rows[0], where)
    is_id = cells != MASK_EDGE
    row_of_cells = np.cumsum(~is_id)
    return cells[is_id], row_of_cells[is_id], 1 + int((~is_id).sum())
