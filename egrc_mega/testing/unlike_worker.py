"""What the ranks of the test of unlike ranks do: the last one has something else than the others."""

from pathlib import Path

from egrc_mega import run_folder
from egrc_mega.config.load import load_config
from egrc_mega.errors import ConfigError
from egrc_mega.policy import distributed
from egrc_mega.sections.policy import MegatronSection
from egrc_mega.testing.gloo import HANG_LIMIT_S
from egrc_mega.training.unlike_ranks import refuse_unlike_ranks


def compare(config: Path, other_data: Path, room: Path) -> None:
    """Compare ranks that are alike, then such that are not, and keep what each of them is told."""
    distributed.initialize(MegatronSection(), timeout_s=HANG_LIMIT_S)
    overrides = [f"run.dir={room / 'run'}"]
    refuse_unlike_ranks(load_config([config], overrides).config)
    if distributed.rank() == distributed.size() - 1:
        overrides += ["run.seed=7", f"data.train={other_data}"]
        version = run_folder._version
        run_folder._version = lambda package: "0.1" if package == "transformers" else version(package)
    try:
        refuse_unlike_ranks(load_config([config], overrides).config)
    except ConfigError as error:
        (room / f"rank_{distributed.rank()}.txt").write_text(str(error))
    distributed.finalize()
