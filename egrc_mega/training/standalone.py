"""Measures a model folder without training it."""

from contextlib import ExitStack
from pathlib import Path

from egrc_mega.config.schema import Config
from egrc_mega.rollout.weights import FolderWeights
from egrc_mega.run_folder import RunFolder
from egrc_mega.training.coordinator import Coordinator


def evaluate_model(model: Path, config: Config, out: Path) -> None:
    """Have the configuration's servers serve `model`, measure it, write `evaluation.json` into `out`, print the rows.

    Raises:
        EgrcError: the model, the data or a server cannot be used.
    """
    section = config.model.model_copy(update={"path": model})
    config = config.model_copy(update={"model": section})
    with ExitStack() as stack:
        folder = stack.enter_context(RunFolder.claim(out, resume=False))
        coordinator = Coordinator(config, folder, stack, print)
        if config.rollout.server == "external":  # who knows what they serve
            coordinator.fleet.update_weights(FolderWeights(model, "evaluated"))
        for line in coordinator.evaluate("model"):
            print(line)
