"""Seeds derived from names, so that every random choice is a pure function of the run's seed and its place."""

import hashlib


def derive_seed(*parts: int | str) -> int:
    """Return a 31-bit seed that depends on every part and their order, the same on every machine.

    31 bits because SGLang keeps `sampling_seed` in an int32 tensor. Example: `derive_seed(seed, "rollout", step, 3)`.
    """
    text = "/".join(f"{type(part).__name__}:{part}" for part in parts)
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=4).digest(), "big") & 0x7FFFFFFF
