"""Step records made by hand, as `training.metrics.step_record` writes them."""

from typing import Any


def make_record(step: int, *, total: int = 6, stage: str = "compress", **changes: Any) -> dict[str, Any]:
    """A plausible record."""
    record: dict[str, Any] = {
        "step": step,
        "total_steps": total,
        "stage": stage,
        "reward": 0.1 * step,
        "accuracy": 0.5,
        "length": 60.0 - step,
        "well_formed": 0.9,
        "kept": 0.4,
        "ungraded": 0.0,
        "truncated": 0.2,
        "loss": 0.01,
        "grad_norm": 0.3,
        "num_updates": 1,
        "logprob_diff_max": 4e-6,
        "logprob_diff_mean": 1e-6,
        "entropy": 0.35,
        "entropy_rollout": 0.4,
        "entropy_kept": 0.3,
        "entropy_rollout_kept": 0.33,
        "updated": True,
        "lr": 1e-4,
        "temperature": 1.2,
        "weight_version": f"v{step - 1}",
        "tokens": 7000,
        "tokens_per_s": 9000.0,
        "time_rollout_s": 0.5,
        "time_grade_s": 0.01,
        "time_train_s": 0.25,
        "time_sync_s": 0.02,
        "time_step_s": 0.78,
        "kl": None,
        "train_tokens": 9000,
        "train_tokens_per_s": 36000.0,
        "train_tflops": 0.02,
        "mfu": None,
        "memory_train_gib": 0.6,
        "memory_sync_gib": 0.6,
    }
    return record | changes
