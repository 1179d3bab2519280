"""`egrc init`: a first configuration for somebody's own model and data, with what can be read of both filled in."""

import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.data.census import Census
from egrc_mega.errors import ConfigError, DataError
from egrc_mega.launch.inspect_data import inspect_data

BOXED = "Let's think step by step and output the final answer within \\boxed{}."
"""Wording of the DeepScaleR, Laser and L1 data scripts."""
CLIP_LEN = 4096
"""The paper's L, in tokens."""
LONGEST = 2 * CLIP_LEN
"""Tokens of a response in explore, where the model has room for so many: the paper's 2 L."""

TEMPLATE = """\
# EGRC on {model_name}: compress, then explore. `egrc config explain NAME` says what a field is;
# docs/configuration_reference.md has all of them, docs/troubleshooting.md what a message means.
# Paths are relative to this file.
run:
  dir: run                      # everything that a run writes
  seed: 1
model:
  path: {model}
data:
  train: {data}                 # {rows} rows that can be used, of {total}
  prompt_key: {prompt_key}
  answer_key: {answer_key}
  # prompts have {shortest} to {longest} tokens; the template: {template}
  instruction: {instruction}
rollout:
  prompts_per_step: {prompts}         # times n samples each is a step's batch
{servers}
megatron:
  bf16: {bf16}
policy:
  max_tokens_per_micro_batch: {budget}   # at least the longest prompt and response together; more is faster
stages:
  - method: compress            # shorter: only right answers of at most clip_len tokens are learnt
    steps: 200
    # L, in tokens: about 70 % of the mean length that the model writes today. Nothing has been measured yet: this is
    # {clip_len_from}. Measure before a long run, and write it into both stages:
    #   {measure}
    # Much too small: hardly any answer is paid (`kept` near 0, alarm no_update). Much too large: it shortens slowly.
    clip_len: {clip_len}
    rollout: {{n: 8, temperature: 1.0}}
    optim: {{lr: 1.0e-6}}
  - method: explore             # recovers accuracy; responses beyond clip_len pay for their length
    steps: 200
    clip_len: {clip_len}
    rollout: {{n: 16, temperature: 1.0, max_new_tokens: {cap}}}
    reward: {{length_unit: {unit}}}  # tokens beyond L that cost 0.25
    optim: {{lr: 1.0e-6, num_updates_per_rollout: 2}}
checkpoint:
  every: 10
evaluation:
  data: {evaluation}            # {evaluation_note}
  prompt_key: {evaluation_prompt_key}
  answer_key: {evaluation_answer_key}
  temperatures: [0.6]
  num_problems: {num_problems}
  max_new_tokens: {evaluation_cap}
health:
  stop: [no_update]             # a run that learns nothing ends
"""
ON_CPU = "  server: embedded              # ours, on the CPU; set sglang and device: cuda on GPUs"
ON_GPUS = """\
  server: sglang                # from the environment that scripts/serve_env.sh makes
  device: cuda
  colocated: true               # on the trainer's GPUs; or give rollout.gpus that it leaves free
sync:
  transport: ipc"""


@dataclass(frozen=True, slots=True)
class Lengths:
    """Caps that fit the model, in tokens."""

    clip_len: int
    cap: int
    evaluation: int
    source: str
    """Where `clip_len` comes from, for people."""


def write_config(
    folder: Path,
    model: Path,
    data: Path,
    evaluation: Path | None,
    instruction: str,
    keys: Mapping[str, str] | None = None,
) -> Path:
    """Write config.yaml into a new folder.

    Args:
        evaluation: problems that are never trained on; None: the training file, which the configuration then says.
        instruction: text after every problem.
        keys: `prompt_key` and `answer_key` of the data, those that its owner names; the others are guessed. They are
            the evaluation's, too, unless it has no row with them.

    Raises:
        EgrcError: the folder is not empty, or model or data cannot be used.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ConfigError(f"DIR: {folder} is not empty; give a new folder")
    positions = read_architecture(model).model_fields["max_sequence_length"]
    stated = {"instruction": instruction, **(keys or {})}
    training = _census(data, model, stated)
    benchmark = _benchmark(evaluation, model, stated) if evaluation else training
    _refuse_bad(training)
    _refuse_bad(benchmark)
    lengths = _lengths(positions, max(*training.lengths, *benchmark.lengths))
    path = folder / "config.yaml"
    words = _words(model, training, benchmark, lengths, instruction) | _words_to_measure(path, model)
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(TEMPLATE.format_map(words), encoding="utf-8")
    return path


def _census(file: Path, model: Path, stated: Mapping[str, str]) -> Census:
    return inspect_data(file, [], [], model=model, stated=stated, profile=None)


def _benchmark(file: Path, model: Path, stated: Mapping[str, str]) -> Census:
    """Under the keys of the training data, or where no row has them under those that are guessed."""
    found = _census(file, model, stated)
    return found if found.reading.good else _census(file, model, {"instruction": stated["instruction"]})


def _refuse_bad(found: Census) -> None:
    """Refuse the file as a run would, and say how `egrc init` is told the names of columns.

    Raises:
        DataError: it has too many bad rows, or no good one.
    """
    try:
        found.refuse_bad()
    except DataError as error:
        if found.reading.good:
            raise
        raise DataError(f"{error}; columns of other names: egrc init --prompt-key NAME --answer-key NAME") from error


def _lengths(positions: int, longest_prompt: int) -> Lengths:
    """What the model has room for, and no more than the paper's caps; L is a quarter of that room, a round number.

    A model's responses are far shorter than its context, as a rule. An L that is too large still pays the shorter of
    two right answers more, one that is too small pays nothing: so it errs on the large side.

    Raises:
        ConfigError: there is no room for a response.
    """
    room = positions - longest_prompt
    if room < 2:
        raise ConfigError(
            f"--model: its {positions} positions have no room for a response to the longest prompt of "
            f"{longest_prompt} tokens; take shorter problems or another model"
        )
    cap = min(LONGEST, room)
    quarter = _rounded(max(room // 4, 1))
    source = (
        "the paper's L"
        if quarter >= CLIP_LEN
        else f"a quarter of what the model's {positions} positions leave beside the longest prompt, rounded down"
    )
    return Lengths(min(CLIP_LEN, quarter), cap, min(4 * LONGEST, room), source)


def _rounded(number: int) -> int:
    """Down to four leading bits, so that nobody takes it for a measurement."""
    step = 1 << max(number.bit_length() - 4, 0)
    return number - number % step


def _words(
    model: Path, training: Census, benchmark: Census, lengths: Lengths, instruction: str
) -> dict[str, str | int]:
    """What the template's places are filled with."""
    has_gpu = torch.cuda.is_available()
    held_out = benchmark.reading.path != training.reading.path
    note = "problems that are never trained on" if held_out else "NOT held out: give problems that are not trained on"
    return {
        "model_name": model.resolve().name,
        "model": _quoted(model.resolve()),
        "data": _quoted(training.reading.path.resolve()),
        "evaluation": _quoted(benchmark.reading.path.resolve()),
        "evaluation_note": note,
        "rows": len(training.reading.good),
        "total": training.reading.total,
        "prompt_key": _quoted(training.section.prompt_key),
        "answer_key": _quoted(training.section.answer_key),
        "evaluation_prompt_key": _quoted(benchmark.section.prompt_key),
        "evaluation_answer_key": _quoted(benchmark.section.answer_key),
        "shortest": min(training.lengths),
        "longest": max(training.lengths),
        "template": training.template.partition(": ")[2],
        "instruction": _quoted(instruction),
        "servers": ON_GPUS if has_gpu else ON_CPU,
        "prompts": 128 if has_gpu else 16,
        "bf16": "true" if has_gpu else "false",
        "budget": max(16384, 2 * lengths.cap),
        "clip_len": lengths.clip_len,
        "clip_len_from": lengths.source,
        "cap": lengths.cap,
        "unit": max(lengths.clip_len // 4, 1),
        "num_problems": min(500, len(benchmark.reading.good)),
        "evaluation_cap": lengths.evaluation,
    }


def _words_to_measure(path: Path, model: Path) -> dict[str, str | int]:
    """The command that measures the model before anything is trained."""
    measure = ["egrc", "eval", model.resolve(), "--config", path, "--out", path.parent / "base"]
    return {"measure": shlex.join(map(str, measure))}


def _quoted(value: object) -> str:
    """As a YAML text: JSON's are."""
    return json.dumps(str(value), ensure_ascii=False)
