"""`egrc publish`: the Hugging Face folder of a run's export with a model card, proved against the trained weights."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

from egrc_mega import yaml_text
from egrc_mega.checkpoint.store import CheckpointStore
from egrc_mega.convert.publish import new_folder
from egrc_mega.errors import ConfigError, ModelError, RunError
from egrc_mega.json_file import read_object, read_text
from egrc_mega.launch.model_card import card_of
from egrc_mega.manifest import MANIFEST, write_manifest
from egrc_mega.report.build import METRICS
from egrc_mega.report.evaluations import Measured, before_after, tables_of
from egrc_mega.report.journal import Journal
from egrc_mega.report.settings import WITHHELD, config_of, environment_of, is_secret
from egrc_mega.report.summary import summary_of
from egrc_mega.training.comparison import compare_logits

CARD = "README.md"
Note = Callable[[str], None]


def publish(run_dir: Path, to: Path | None = None, note: Note = lambda _line: None) -> Path:
    """Write the folder, by default `publish` within the run's; an earlier one that was published is replaced.

    Nothing leaves this machine.

    Raises:
        RunError: the run has no export, or no checkpoint to prove it against.
        ModelError: the export does not compute what was trained.
        ConfigError: the target is the export itself, or lies within it.
    """
    export, target = run_dir / "export", to or run_dir / "publish"
    if not (export / "config.json").is_file():
        raise RunError(f"{run_dir} holds no export; let the run end (egrc train --resume), then publish it")
    if target.resolve().is_relative_to(export.resolve()):
        raise ConfigError(f"--to: {target} lies in the run's export; choose another folder")
    parity = _proved(run_dir, export, note)
    card = _card(run_dir, parity)
    size = sum(path.stat().st_size for path in export.iterdir() if path.is_file())
    with new_folder(target, durable=True, replaces=True, num_bytes=size) as folder:
        for path in sorted(export.iterdir()):
            if path.is_file() and path.name not in (CARD, MANIFEST) and not path.is_symlink():
                (folder / path.name).write_bytes(path.read_bytes())
        (folder / CARD).write_text(card, encoding="utf-8")
        write_manifest(folder, {}, durable=True)
    return target


def _proved(run_dir: Path, export: Path, note: Note) -> str:
    """What the export's logits differ from those of the newest checkpoint, in words.

    Raises:
        ModelError: more than rounding explains.
    """
    checkpoint = CheckpointStore(run_dir / "checkpoints", 0).newest()
    if checkpoint is None:
        raise RunError(f"{run_dir / 'checkpoints'} holds no whole checkpoint to prove the export against; keep one")
    note(f"comparing the logits of {export} with those of {checkpoint}")
    found = compare_logits(export, checkpoint)
    if not found.are_equal:
        raise ModelError(f"{export} does not compute what {checkpoint} does: {found.line()}; export the run again")
    return f"Measured against the checkpoint {checkpoint.name} of the training: {found.line()}."


def _card(run_dir: Path, parity: str) -> str:
    journal = Journal(run_dir / METRICS)
    journal.advance()
    measured = Measured.of(run_dir)
    change, tables = before_after(measured), tables_of(measured)
    config = config_of(run_dir)
    base = str((config.get("model") or {}).get("path") or "")
    facts = {
        "name": run_dir.resolve().name,
        "base": _hub_name(base),
        "licence": _licence_of(Path(base)) if base else None,
        "parity": parity,
        "config": yaml.safe_dump(without_secrets_and_paths(config), sort_keys=False),
        "versions": "\n".join(f"{n} {v}" for n, v in environment_of(run_dir) if n not in ("arguments", "num_cpus")),
        "summary": summary_of(journal, change, len(tables)),
    }
    return card_of(facts, tables, change)


def _hub_name(path: str) -> str | None:
    """`owner/name` of a base in the hub's cache; of any other folder nobody knows where it came from."""
    found = next((part for part in Path(path).parts if part.startswith("models--")), None)
    return "/".join(found.removeprefix("models--").split("--")) if found else None


def _licence_of(folder: Path) -> str | None:
    """What the base's own card says in its header, else its config.json."""
    try:
        card = read_text(folder / CARD)[:20_000]
        header = yaml_text.read(card.split("---")[1]) if card.startswith("---") else None
        if isinstance(header, dict) and isinstance(header.get("license"), str):
            return str(header["license"])
    except (OSError, *yaml_text.UNREADABLE, IndexError):
        pass
    try:
        stated = read_object(folder / "config.json").get("license")
    except (OSError, ValueError):
        return None
    return stated if isinstance(stated, str) else None


def without_secrets_and_paths(value: Any, name: str = "") -> Any:
    """A configuration for others to read: no secrets, and of a path on this machine its last part only."""
    if isinstance(value, dict):
        return {key: without_secrets_and_paths(child, str(key)) for key, child in value.items()}
    if isinstance(value, list):
        return [without_secrets_and_paths(child, name) for child in value]
    if value and is_secret(name):
        return WITHHELD
    return Path(value).name if isinstance(value, str) and value.startswith("/") else value
