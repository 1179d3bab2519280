"""Which method runs a stage."""

from egrc_mega.config.schema import CompressStage, Stage
from egrc_mega.methods.base import Method
from egrc_mega.methods.compress import Compress
from egrc_mega.methods.explore import Explore


def build_method(stage: Stage) -> Method:
    """The method object of a stage's configuration."""
    return Compress(stage) if isinstance(stage, CompressStage) else Explore(stage)
