"""The training loop. Every rank runs it; rank 0 also talks to the servers, graders and the user.

`egrc train` calls `train`; under torchrun it is `torchrun ... -m egrc_mega.train --config FILE [--set k=v] [--resume]`.
"""

import argparse
import os
import sys
from pathlib import Path

from egrc_mega.config.load import load_config
from egrc_mega.config.schema import Config
from egrc_mega.errors import EgrcError, RelayedError
from egrc_mega.parent import die_with_parent
from egrc_mega.relay import report_error
from egrc_mega.report.build import build_report
from egrc_mega.training.preflight import preflight
from egrc_mega.training.run import Run


def train(config: Config, *, resume: bool) -> None:
    """Run every stage, evaluate before, between and after, export and report.

    Raises:
        EgrcError: something the user can mend; the run folder stays resumable from its last checkpoint.
    """
    with Run(config, resume=resume) as run:
        for step in run.remaining_steps():
            if step.opens_stage:
                run.evaluate(step.point)
            method = run.open_stage(step)
            version = run.version
            batch = run.collect(step, method)
            run.sample_ahead(step, method)
            metrics = run.update(batch, step)
            run.publish_weights()
            run.record(step, method, metrics, version)
            run.commit(step)
        run.finish()
        if run.coordinator:
            print(f"report: {build_report(config.run.dir)}", flush=True)


def main() -> None:
    """Entry under torchrun."""
    die_with_parent()
    parser = argparse.ArgumentParser(prog="python -m egrc_mega.train", description=__doc__)
    parser.add_argument("--config", type=Path, required=True)
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--resume", action="store_true")
    arguments = parser.parse_args()
    try:
        config = load_config(arguments.config, arguments.overrides).config
        preflight(config, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        train(config, resume=arguments.resume)
    except RelayedError as error:
        sys.exit(error.exit_code)
    except EgrcError as error:
        report_error(error)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
