"""Ranks that have unlike code, settings, packages or data are refused on every rank, with what differs and where."""

import hashlib
import shutil
import socket
from pathlib import Path

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.testing.gloo import run_on_gloo
from egrc_mega.testing.runs import finish_run, start_run
from egrc_mega.testing.unlike_worker import compare
from egrc_mega.training import unlike_ranks
from egrc_mega.training.unlike_ranks import differences, statement


@pytest.fixture(scope="module")
def quickstart(root: Path) -> Path:
    return root / "configs/quickstart.yaml"


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_every_rank_hears_what_another_has_unlike_rank_0_and_like_ranks_hear_nothing(
    quickstart: Path, root: Path, tmp_path: Path
) -> None:
    data = root / "egrc_mega/miniature/assets"
    run_on_gloo(compare, 2, quickstart, data / "eval.jsonl", tmp_path)
    texts = [(tmp_path / f"rank_{rank}.txt").read_text() for rank in range(2)]
    assert texts[0] == texts[1]
    package, seed, path, content = texts[0].splitlines()
    here = socket.gethostname()
    assert package.startswith(f"the ranks disagree about transformers: rank 0 on {here} has ")
    assert package.endswith(f"rank 1 on {here} has 0.1; install the versions of scripts/constraints.txt on every node")
    assert seed == (
        f"the ranks disagree about run.seed: rank 0 on {here} has 1, rank 1 on {here} has 7; "
        f"start every node with the same configuration files and the same --set"
    )
    assert "about data.train: " in path and "train.jsonl" in path and "eval.jsonl" in path
    assert content == (
        f"the ranks disagree about the file data.train (SHA-256): rank 0 on {here} has {sha256(data / 'train.jsonl')}, "
        f"rank 1 on {here} has {sha256(data / 'eval.jsonl')}; copy the file anew, or give all nodes one that they share"
    )


def test_a_run_whose_nodes_have_unlike_settings_ends_on_each_before_its_folder_is_claimed(
    root: Path, tmp_path: Path, free_port: int
) -> None:
    options = ("--nnodes", "2", "--master-port", str(free_port))
    nodes = [
        start_run(root, tmp_path / "run", *options, "--node-rank", str(rank), overrides=(f"run.seed={3 + rank}",))
        for rank in range(2)
    ]
    for output in [finish_run(node, expected=2) for node in nodes]:
        assert "egrc: error: the ranks disagree about run.seed: rank 0 on " in output
    assert not (tmp_path / "run" / "metrics.jsonl").exists()


def test_the_code_that_counts_is_the_content_of_the_package_wherever_it_lies(
    quickstart: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config([quickstart], [f"run.dir={tmp_path}"]).config
    before = statement(config)["code"]
    copy = shutil.copytree(Path(unlike_ranks.egrc_kernels.__file__).parent, tmp_path / "elsewhere")
    monkeypatch.setattr(unlike_ranks.egrc_kernels, "__file__", str(copy / "__init__.py"))
    assert statement(config)["code"] == before
    source = copy / "rmsnorm" / "reference.py"
    source.write_text(source.read_text().replace("+", "-", 1))
    changed = statement(config)["code"]
    assert changed != before
    source.rename(source.with_name("renamed.py"))
    assert statement(config)["code"] not in (before, changed)


def test_a_plugin_and_every_benchmark_are_looked_at_too(quickstart: Path, tmp_path: Path) -> None:
    plugin, benchmark = tmp_path / "plugin.py", tmp_path / "own.jsonl"
    plugin.write_text("from egrc_mega.methods.method import Method\n\n\nclass Mine(Method):\n    pass\n")
    benchmark.write_text("{}\n")
    config = load_config([quickstart], [f"run.dir={tmp_path}", f"evaluation.sets.own.data={benchmark}"]).config
    config = config.model_copy(update={"plugins": (str(plugin),)})
    before = statement(config)
    assert before["data evaluation.sets.own.data"] == sha256(benchmark)
    plugin.write_text(plugin.read_text().replace("Mine", "Yours"))
    benchmark.write_text("[]\n")
    lines = list(differences([before | {"host": "a"}, statement(config) | {"host": "b"}]))
    assert [line.split(": ")[0] for line in lines] == [
        "the ranks disagree about the code of egrc_mega (SHA-256)",
        "the ranks disagree about the file evaluation.sets.own.data (SHA-256)",
    ]


def test_the_first_rank_that_differs_is_named_and_the_others_are_counted() -> None:
    one, other = {"host": "a", "package torch": "2.13.0"}, {"host": "b", "package torch": "2.11.0"}
    assert list(differences([one, one])) == []
    (line,) = differences([one, one, other, other, {"host": "c"}])
    assert line == (
        "the ranks disagree about torch: rank 0 on a has 2.13.0, rank 2 on b has 2.11.0 (and 2 more ranks); "
        "install the versions of scripts/constraints.txt on every node"
    )
    (line,) = differences([one, {"host": "c"}])
    assert "rank 1 on c has nothing" in line
