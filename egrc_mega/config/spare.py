"""The spare servers of a configuration (`evaluation.spare`): as a section like `rollout`, and what is wrong with it."""

from collections.abc import Iterator

from egrc_mega.config.config import Config
from egrc_mega.errors import ConfigError
from egrc_mega.sections.evaluation import SpareSection
from egrc_mega.sections.rollout import RolloutSection


def spare_servers(rollout: RolloutSection, spare: SpareSection) -> RolloutSection:
    """All that there is to know of the spare servers, by the names that the others have."""
    own = {
        "num_servers": spare.num_servers,
        "urls": spare.urls,
        "hosts_file": None,
        "announce_dir": spare.announce_dir,
        "port": rollout.port + rollout.num_servers if rollout.port else 0,
        "colocated": False,
    }
    if rollout.server == "sglang":
        first, size = max(gpus_of(rollout)) + 1, spare.num_servers * rollout.tensor_parallel_size
        own["gpus"] = spare.gpus or tuple(range(first, first + size))
    return rollout.model_copy(update=own)


def gpus_of(section: RolloutSection) -> tuple[int, ...]:
    """Numbers of the GPUs of servers of SGLang."""
    return section.gpus or tuple(range(section.num_servers * section.tensor_parallel_size))


def spare_problems(config: Config, local_world_size: int) -> Iterator[ConfigError]:
    """What is wrong with the spare servers, where there are some."""
    spare, rollout = config.evaluation.spare, config.rollout
    if spare is None:
        return
    yield from _place_problems(rollout, spare)
    if rollout.server == "sglang":
        yield from _gpu_problems(rollout, spare, local_world_size)


def _place_problems(rollout: RolloutSection, spare: SpareSection) -> Iterator[ConfigError]:
    is_external = rollout.server == "external"
    if is_external and not (spare.urls or spare.announce_dir):
        yield ConfigError(
            "evaluation.spare.urls: empty, but rollout.server is external; give the spare servers' base URLs, or "
            "announce_dir"
        )
    for name in ("urls", "announce_dir"):
        if getattr(spare, name) and not is_external:
            yield ConfigError(
                f"evaluation.spare.{name}: given, but rollout.server is {rollout.server}, so the run starts them; "
                f"leave it out"
            )
    if shared := sorted(set(spare.urls) & set(rollout.urls)):
        yield ConfigError(f"evaluation.spare.urls: {shared} stand in rollout.urls, too; take them away there or here")
    if spare.announce_dir and spare.announce_dir == rollout.announce_dir:
        yield ConfigError(
            f"evaluation.spare.announce_dir: {spare.announce_dir} is that of the servers that sample; give the spare "
            f"ones another"
        )


def _gpu_problems(rollout: RolloutSection, spare: SpareSection, local_world_size: int) -> Iterator[ConfigError]:
    num_gpus = spare.num_servers * rollout.tensor_parallel_size
    if spare.gpus and len(set(spare.gpus)) != num_gpus:
        yield ConfigError(
            f"evaluation.spare.gpus: {list(spare.gpus)}, but num_servers x rollout.tensor_parallel_size need "
            f"{num_gpus} different ones; give as many, or none to count on from the other servers'"
        )
    if rollout.device != "cuda":
        return
    theirs = spare_servers(rollout, spare).gpus
    others = {"the other servers'": gpus_of(rollout), "the trainer's": range(local_world_size)}
    for whose, taken in others.items():
        if shared := sorted(set(theirs) & set(taken)):
            yield ConfigError(
                f"evaluation.spare.gpus: {shared} are {whose}, spare servers would take {list(theirs)}; give others"
            )
