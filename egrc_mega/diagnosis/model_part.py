"""The parts of a diagnosis that need more than texts: the objectives of a run's rollouts, and a model's tokens."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.diagnosis.measured import Measured
from egrc_mega.diagnosis.objectives import Objectives, conflict, taught
from egrc_mega.diagnosis.question import Question
from egrc_mega.evaluation.layouts import sampled_responses
from egrc_mega.observe.rollouts import FOLDER, require_steps, step_path
from egrc_mega.training.recorded_batch import read_batch

HEATMAP_RESPONSES = 64
"""Responses whose tokens are written with their entropies."""
NOT_NEEDED = {"run": {"dir": "."}, "model": {"path": "."}, "data": {"train": "."}, "evaluation": {"data": "."}}
"""What a configuration must have that no diagnosis depends on."""
Note = Callable[[str], None]
Write = Callable[[dict[str, Any]], None]


def of_model(question: Question, note: Note, heatmap: Write) -> dict[str, Any]:
    """`objectives`: one entry a step of a run's rollouts, empty for responses from elsewhere; `tokens`: None without
    a model.

    Args:
        heatmap: given the tokens and entropies of the first HEATMAP_RESPONSES responses, one row each.

    Raises:
        EgrcError: the model, the configuration or the rollouts cannot be used.
    """
    config = _config(question)
    files = list(_rollout_files(question.rollouts))
    steps = []
    for file in files:
        note(f"objectives of {file}")
        batch = read_batch(file)
        samples = taught(batch.groups, Objectives.of(config))
        steps.append({"step": batch.step + 1, "num_samples": len(samples), "conflict": conflict(samples)})
    if question.model is None:
        return {"objectives": steps, "tokens": None}
    from egrc_mega.diagnosis.objective_gradients import gradient_angles
    from egrc_mega.diagnosis.token_part import TokenPart
    from egrc_mega.diagnosis.token_words import clouds

    many = " (of a run's folder, so sampled by other weights, too)" if len(files) > 1 else ""
    note(f"tokens, as {question.model} sees them{many}")
    instruction = config.data.instruction if question.instruction is None and config else question.instruction or ""
    part = TokenPart(question.model, question.tokens, instruction)
    for number, response in enumerate(sampled_responses(question.rollouts)):
        if part.is_full:
            break
        measured = part.take(response)
        if number < HEATMAP_RESPONSES:
            heatmap({"place": response.place, "verdict": measured.verdict} | heat_of(measured))
    tokens = part.table.figures(part.gradients(note)) | {
        "num_cut": part.num_cut,
        "clouds": clouds(part.table.column("output_ids"), part.table.column("entropy"), part.renderer.tokenizer),
    }
    if len(files) == 1:  # a run's folder holds the rollouts of many weights, and this is one of them
        note("gradients of the objectives")
        steps[0]["gradients"] = gradient_angles(part, taught(read_batch(files[0]).groups, Objectives.of(config)))
    return {"objectives": steps, "tokens": tokens}


def heat_of(measured: Measured) -> dict[str, Any]:
    """A response for a heat map: where each token ends in the text, in characters, and its entropy in nats."""
    return {
        "text": measured.text,
        "token_ends": measured.token_ends.tolist(),
        "entropy": [round(float(value), 3) for value in measured.figures.entropy],
    }


def _config(question: Question) -> Config | None:
    """The configuration that was given, or the run's own where the rollouts are a run's."""
    path = question.config
    if path is None and (question.rollouts.is_dir() or question.rollouts.parent.name == FOLDER):
        run = question.rollouts if question.rollouts.is_dir() else question.rollouts.parent.parent
        path = run / "config.yaml" if (run / "config.yaml").is_file() else None
    return None if path is None else load_config([path], below=NOT_NEEDED).config


def _rollout_files(rollouts: Path) -> Iterator[Path]:
    if rollouts.is_dir():
        yield from (step_path(rollouts / FOLDER, step) for step in require_steps(rollouts))
    elif rollouts.suffix == ".safetensors":
        yield rollouts
