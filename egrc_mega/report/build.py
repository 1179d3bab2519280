"""Builds `report.html` from what a run has written. Derived data only: it can be rebuilt at any time."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from egrc_mega import __version__
from egrc_mega.data.render import Renderer
from egrc_mega.errors import RunError
from egrc_mega.evaluation.results import RESULTS
from egrc_mega.evaluation.store import RESPONSES, TABLE
from egrc_mega.observe.rollouts import FOLDER
from egrc_mega.report.browser import clipped, responses_of, rollouts_of
from egrc_mega.report.curves import curves_of
from egrc_mega.report.diagnosed import diagnosis_of
from egrc_mega.report.evaluations import Measured, before_after, results_of, tables_of
from egrc_mega.report.journal import Journal
from egrc_mega.report.page import page_of, write_page
from egrc_mega.report.settings import CONFIG, config_of, environment_of, settings_of
from egrc_mega.report.summary import summary_of
from egrc_mega.report.times import times_of
from egrc_mega.report.tokens import Pieces, renderer_of
from egrc_mega.run_folder import REPORT, require_no_links_out

METRICS = "metrics.jsonl"
PARTS = {
    METRICS: "no curves",
    TABLE: "no table",
    RESPONSES: "no responses",
    CONFIG: "no configuration",
}
"""What a page is made of, and what it lacks without."""


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into the folder of a run or of `egrc eval`: one file, which asks nobody for anything.

    Works on a run that is still going, and on a folder that has only some of the files: the page says which it lacks.

    Raises:
        RunError: the folder holds neither steps nor measurements, a file that cannot be read, or a link out of it.
    """
    require_no_links_out(run_dir)
    view = RunView.of(run_dir)
    view.journal.advance()
    report = run_dir / REPORT
    write_page(report, page_of(view.name, [view.whole()]))
    return report


@dataclass
class RunView:
    """A folder as the page sees it."""

    run_dir: Path
    journal: Journal
    _renderer: Renderer | None = None
    """The run's tokenizer, once it was found."""

    @classmethod
    def of(cls, run_dir: Path) -> "RunView":
        """Look at a folder; `journal.advance` reads its steps.

        Raises:
            RunError: there is nothing that a page could show.
        """
        if not any((run_dir / name).is_file() for name in (METRICS, TABLE, RESULTS)):
            raise RunError(
                f"{run_dir} holds no {METRICS} and no {TABLE}; give the folder of a run, or of egrc eval --out"
            )
        return cls(run_dir, Journal(run_dir / METRICS))

    @property
    def name(self) -> str:
        """The folder's name, fit to be shown."""
        return clipped(self.run_dir.resolve().name)

    def whole(self) -> dict[str, Any]:
        """All that the page shows of the folder, as plain values."""
        return self.light() | {"curves": curves_of(self.journal)} | self.heavy()

    def light(self) -> dict[str, Any]:
        """The parts that change with every step and cost little, without the curves."""
        measured = Measured.of(self.run_dir)
        change = before_after(measured)
        tables = tables_of(measured) + results_of(self.run_dir)
        journal = self.journal
        return {
            "name": self.name,
            "about": about(config_of(self.run_dir)),
            "missing": missing_parts(self.run_dir),
            "state": _state(journal),
            "progress": {"step": journal.steps[-1] if journal.steps else 0, "total": journal.total_steps},
            "summary": summary_of(journal, change, len(tables)),
            "evaluation": tables,
            "times": times_of(journal),
            "incidents": {"rows": journal.incidents[::-1], "num": dict(journal.num_incidents)},
            "checkpoints": journal.checkpoints[-20:],
            "settings": settings_of(self.run_dir),
            "environment": environment_of(self.run_dir),
        }

    def heavy(self) -> dict[str, Any]:
        """The parts that look at texts."""
        measured = Measured.of(self.run_dir)
        pieces = self._pieces() if (self.run_dir / FOLDER).is_dir() else None
        rollouts = rollouts_of(self.run_dir, pieces)
        return {
            "rollouts": {"groups": rollouts.groups, **rollouts.facts},
            "responses": responses_of(measured),
            "diagnosis": diagnosis_of(measured, before_after(measured), rollouts.stored, pieces),
        }

    def _pieces(self) -> Pieces | None:
        self._renderer = self._renderer or renderer_of(self.run_dir)
        return Pieces(self._renderer) if self._renderer else None


def _state(journal: Journal) -> str:
    if journal.begun is None:
        return "no run"
    return "ended" if journal.has_ended else "still running, or stopped early"


def missing_parts(run_dir: Path) -> list[str]:
    """The files that the folder lacks, each with what the page lacks for it."""
    if (run_dir / RESULTS).is_file() and not (run_dir / METRICS).is_file():
        return []
    return [f"{name} ({effect})" for name, effect in PARTS.items() if not (run_dir / name).is_file()]


def about(config: Mapping[str, Any]) -> list[str]:
    """What stands below the page's name."""
    stages = [f"{stage_name(stage)} ({stage.get('steps', '?')} steps)" for stage in config.get("stages", [])]
    parts = [str(config.get("model", {}).get("path", "")), f"stages {', '.join(stages)}" if stages else ""]
    seed = config.get("run", {}).get("seed")
    parts += [f"seed {seed}" if seed is not None else "", f"egrc_mega {__version__}"]
    return [part for part in parts if part]


def stage_name(stage: Mapping[str, Any]) -> str:
    """How a stage of a configuration is called: by its label, else by its method."""
    return str(next((stage[key] for key in ("label", "method", "name") if stage.get(key)), "?"))
