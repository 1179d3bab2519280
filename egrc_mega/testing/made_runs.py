"""Whole run folders made by hand, as a run writes them, fast: the steps share their rollouts' arrays."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import orjson
import yaml
from safetensors.numpy import save_file

from egrc_mega.evaluation.records import Response
from egrc_mega.evaluation.store import add_point
from egrc_mega.observe.events import EventLog
from egrc_mega.observe.rollout_file import StoredGroup, StoredSample, StoredStep, arrays_of
from egrc_mega.observe.rollouts import FOLDER, step_path
from egrc_mega.testing.points import make_point, make_protocol, make_subject
from egrc_mega.testing.records import make_record
from egrc_mega.testing.rollouts import make_stored_sample

ATTACK = (
    "<script>window.hacked=1</script><img src=x onerror=window.hacked=2>"
    "</script ><script >window.hacked=4</script ><!--"
)
"""A text that would show itself if it ever became markup."""


def write_steps(folder: Path, steps: Sequence[int], total: int, *, ends: bool = True) -> None:
    """Append steps, half of them of each stage, with the controller's decision between them and the end."""
    half = total // 2
    with EventLog(folder / "metrics.jsonl") as log:
        for step in steps:
            if step == 1:
                log.write("run", seed=3)
            stage, place = ("compress", step) if step <= half else ("explore", step - half)
            spans = [
                {"name": n, "seconds": 0.5, "own_seconds": 0.4, "thread": "MainThread"} for n in ("rollout", "train")
            ]
            log.write("spans", step=step, spans=spans)
            record = make_record(step, total=total, stage=stage, step_in_stage=place, length=60 - 30 * step / total)
            log.write("step", **record | {"accuracy": 0.5 + 0.4 * step / total, "reward": 0.1 + step / total})
            if step == half:
                log.write("switch", ended="compress", opens="explore", step=step, reason=f"all {half} steps are done")
        if ends and steps:
            log.write("end", step=steps[-1])


def write_rollouts(folder: Path, steps: Sequence[int], groups: Sequence[StoredGroup]) -> None:
    """The same groups for every step, as files of their own."""
    (folder / FOLDER).mkdir(exist_ok=True)
    arrays: dict[str, Any] = arrays_of(StoredStep(step=1, stage="compress", groups=tuple(groups)))
    index = orjson.loads(arrays["index"].tobytes())
    for step in steps:
        own = orjson.dumps(index | {"step": step, "stage": "compress" if step <= len(steps) // 2 else "explore"})
        save_file(arrays | {"index": np.frombuffer(own, np.uint8)}, step_path(folder / FOLDER, step))


def make_groups(num: int, size: int, text: str, prompt: str = "9 a + 1 = ?") -> list[StoredGroup]:
    """Groups with a prompt of their own each; every third sample is wrong, and the texts differ."""
    return [
        StoredGroup(key=f"train.jsonl:{g}", prompt=f"{prompt} ({g})", answer="0", samples=_samples(g, size, text))
        for g in range(num)
    ]


def _samples(group: int, size: int, text: str) -> tuple[StoredSample, ...]:
    verdicts = [("right", "numeral"), ("right", "equal text"), ("wrong", "no box")]
    return tuple(
        make_stored_sample(20, text=f"{group}.{i} {text}", grade=verdicts[i % 3][0], reason=verdicts[i % 3][1])
        for i in range(size)
    )


def write_evaluation(
    folder: Path, place: tuple[str, int, int | None], accuracy: float, length: float, text: str = "", num: int = 1
) -> None:
    """A point at both temperatures, with some responses each."""
    subject = make_subject(*place)
    for temperature in (0.6, 1.0):
        protocol = make_protocol(temperature=temperature)
        responses = [
            Response(
                weights=subject.weights,
                protocol=protocol.key,
                problem=f"9 a + {i} = ?",
                gold="0",
                text=f"{subject.label} says {text}",
                grade="right" if i < accuracy * num else "wrong",
                length=int(length) + i,
                truncated=False,
            )
            for i in range(num)
        ]
        add_point(folder, protocol, make_point(subject, protocol, accuracy, length), responses)


def write_config(folder: Path, config: Mapping[str, Any], origins: Mapping[str, str] | None = None) -> None:
    """`config.yaml`, where its values come from, and `environment.json`."""
    (folder / "config.yaml").write_text(yaml.safe_dump(dict(config)))
    if origins is not None:
        (folder / "config_origins.json").write_bytes(orjson.dumps(dict(origins)))
    environment = {
        "egrc_mega": "0.1.0",
        "packages": {"torch": "2.13.0"},
        "arguments": ["train", "--token", "hf_SECRET"],
    }
    (folder / "environment.json").write_bytes(orjson.dumps(environment))


def write_hostile_run(folder: Path) -> Path:
    """A run whose every text is an ATTACK: its folder, a response, a prompt, a configuration value, an event."""
    run = folder / "<img src=x onerror=window.hacked=3>"
    run.mkdir()
    write_steps(run, range(1, 61), 60)
    write_config(run, {"run": {"seed": ATTACK}, "model": {"path": ATTACK}}, {"run.seed": ATTACK})
    write_evaluation(run, ("base", 0, 0), 1.0, 110.0, ATTACK, num=2)
    write_evaluation(run, (ATTACK, 1, 30), 0.5, 40.0, ATTACK, num=2)
    write_rollouts(run, [1, 30, 60], make_groups(2, 3, ATTACK, prompt=ATTACK))
    return run


def write_large_run(run: Path) -> Path:
    """A run of 200 steps with 128 rollouts each, of a thousand characters."""
    write_steps(run, range(1, 201), 200)
    write_config(run, {"run": {"seed": 1}})
    text = " ".join(str(n) for n in np.random.default_rng(0).integers(0, 9999, 200).tolist())
    write_rollouts(run, range(1, 201), make_groups(16, 8, text))
    return run
