"""`egrc study` from its file to its page."""

import os
from pathlib import Path

from egrc_mega.errors import RunError
from egrc_mega.studies.grid import Study, read_study
from egrc_mega.studies.page import write_findings
from egrc_mega.studies.records import check_folders, read_result
from egrc_mega.studies.worker import forget_failures, run_cells


def run_study(file: Path, *, jobs: int | None, retry_failed: bool, only_report: bool) -> None:
    """Run what is left to run, then compare what there is.

    Raises:
        ConfigError: the study, or the configuration of one of its cells, cannot be used; nothing has been run.
        RunError: the folder holds another study's cells; or, after the page was written, some cells have failed.
    """
    study = read_study(file)
    if not only_report:
        check_folders(study)
        if retry_failed:
            forget_failures(study)
        run_cells(study, jobs or study.section.jobs or os.cpu_count() or 1, lambda text: print(text, flush=True))
    print(write_findings(study))
    print(f"page: {study.section.dir / f'{study.file.stem}.html'}")
    _tell_failures(study)


def _tell_failures(study: Study) -> None:
    results = [read_result(cell.folder) for cell in study.cells]
    failed = [f"{r.setting}, seed {r.seed}" for r in results if r is not None and r.failure is not None]
    if failed:
        raise RunError(
            f"{len(failed)} of {len(study.cells)} cells failed ({'; '.join(failed)}); the page says why, "
            f"--retry-failed runs them again"
        )
