"""Measures a model folder without training it."""

from contextlib import ExitStack
from pathlib import Path

from egrc_mega.config.config import Config
from egrc_mega.errors import ModelError
from egrc_mega.evaluation.fingerprint import fingerprint_of_folder
from egrc_mega.evaluation.records import Subject
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.run_folder import RunFolder
from egrc_mega.training.serving import Serving, open_renderer


def evaluate_model(model: Path, config: Config, out: Path) -> None:
    """Have the configuration's servers serve `model`, measure it, add its rows to `out`/evaluation.json, print them.

    What has been measured before, the same weights by the same protocol, is not measured again, and its line says so.

    Raises:
        EgrcError: the model, the data or a server cannot be used.
    """
    if not model.is_dir():
        raise ModelError(f"{model} is not a folder; give a local Hugging Face model folder")
    if (model / ".metadata").exists():
        raise ModelError(f"{model} is a Megatron checkpoint; measure what `egrc convert megatron-to-hf` makes of it")
    section = config.model.model_copy(update={"path": model})
    config = config.model_copy(update={"model": section})
    subject = Subject(label=str(model), ordinal=0, step=None, weights=fingerprint_of_folder(model))
    renderer = open_renderer(config)  # before there is a folder, for this may refuse the model
    print(f"evaluating {subject}, into {out}", flush=True)
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.claim(out, resume=False))
        serving = Serving(config, renderer, folder, stack, print)
        serving.fleet.wait_until_ready()
        if config.rollout.server == "external":  # who knows what they serve
            serving.fleet.update_weights(FolderWeights(model, "evaluated"))
        for outcome in serving.evaluator.evaluate(subject):
            print(outcome.line(), flush=True)
