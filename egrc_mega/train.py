"""The training loop. Every rank runs it; rank 0 also talks to the servers, graders and the user.

`egrc train` calls `train`; under torchrun it is `torchrun ... -m egrc_mega.train --config FILE [--set k=v] [--resume]`,
or `--resume-if-begun` for who cannot know whether the folder holds a run already.
"""

import argparse
import os
import sys
from collections.abc import Mapping
from pathlib import Path

from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.errors import EgrcError, RelayedError, StorageError, storage_error
from egrc_mega.observe.run_log import noted_end
from egrc_mega.observe.streams import bear_lost_streams
from egrc_mega.parent import die_with_parent, launcher
from egrc_mega.relay import report_error, report_relayed
from egrc_mega.report.build import build_report
from egrc_mega.run_folder import LOG, place_of_disk_errors
from egrc_mega.training.conclusion import said_that_it_is_finished
from egrc_mega.training.preflight import preflight
from egrc_mega.training.run import Run


def train(config: Config, *, resume: bool | None, origins: Mapping[str, str] | None = None) -> None:
    """Run every stage until its rules end it, evaluate before, between and after, export and report.

    A run that has come to its end already is not begun again: it says what came of it.

    Args:
        resume: go on with the run that the folder holds; None: if it holds one.
        origins: where the configuration's values come from, to be kept; None: nobody knows.

    Raises:
        Stopped: by SIGTERM; what was done is committed.
        EgrcError: something the user can mend; the run folder stays resumable from its last checkpoint.
    """
    if resume is not False and said_that_it_is_finished(config):
        return
    folder = config.run.dir
    with noted_end(folder / LOG), place_of_disk_errors(folder), Run(config, resume=resume) as run:
        if run.lead and origins is not None:
            run.lead.folder.write_origins(origins)
        run.evaluate()
        while turn := run.turn():
            if turn.opens_stage:
                run.open_stage(turn)
            run.collect(turn)
            run.sample_ahead(turn)
            batch = run.credit(turn)
            update = run.update(turn, batch)
            run.publish_weights(turn)
            run.record(turn, update)
            run.commit(turn)
            run.evaluate()
        run.finish()
        if run.lead:
            build_report(folder)
            run.lead.conclude(run.state.best)


def main() -> None:
    """The entry of every rank under torchrun."""
    die_with_parent(launcher())
    bear_lost_streams()
    parser = argparse.ArgumentParser(prog="python -m egrc_mega.train", description=__doc__)
    parser.add_argument("--config", type=Path, action="append", required=True, metavar="FILE")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", dest="overrides")
    parser.add_argument("--resume", action="store_true")
    parser.add_argument("--resume-if-begun", action="store_const", const=None, default=False, dest="resume")
    arguments = parser.parse_args()
    try:
        loaded = load_config(arguments.config, arguments.overrides)
        config = loaded.config
        preflight(config, int(os.environ["WORLD_SIZE"]), int(os.environ["LOCAL_WORLD_SIZE"]))
        train(config, resume=arguments.resume, origins=loaded.provenance)
    except RelayedError as error:
        report_relayed(error)
        sys.exit(error.exit_code)
    except EgrcError as error:
        report_error(error)
        sys.exit(error.exit_code)
    except OSError as error:
        report_error(storage_error(error))
        sys.exit(StorageError.exit_code)


if __name__ == "__main__":
    main()
