"""Everything that can be checked before a process group, a server or a folder exists, told at once."""

from collections.abc import Iterator

from egrc_mega.config.check import problems
from egrc_mega.config.schema import Config
from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.convert.parallel import ParallelLayout, layout_problems
from egrc_mega.errors import ConfigError, EgrcError, ModelError


def preflight(config: Config, world_size: int) -> None:
    """Refuse what cannot run.

    Raises:
        EgrcError: of the class of the first problem, with one line for each.
    """
    found = [*_model_problems(config), *problems(config, world_size)]
    if found:
        raise type(found[0])("\n".join(map(str, found)))


def _model_problems(config: Config) -> Iterator[EgrcError]:
    path = config.model.path
    if not path.is_dir():
        yield ModelError(f"model.path: {path} is not a folder; give a local Hugging Face model folder")
        return
    try:
        architecture = read_architecture(path)
    except ModelError as error:
        yield error
        return
    for problem in layout_problems(architecture, ParallelLayout.of(config.megatron)):
        yield ConfigError(f"megatron.{problem}")
