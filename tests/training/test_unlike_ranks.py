"""Ranks that have unlike code, settings, packages or data are refused on every rank, with what differs and where."""

import hashlib
import json
import platform
import shutil
import socket
from importlib.metadata import version
from pathlib import Path

import pytest

from egrc_mega.config.load import load_config
from egrc_mega.run_folder import LOCK
from egrc_mega.testing.runs import finish_run, start_run
from egrc_mega.training import unlike_ranks
from egrc_mega.training.unlike_ranks import differences, statement


@pytest.fixture(scope="module")
def quickstart(root: Path) -> Path:
    return root / "configs/quickstart.yaml"


def quoted(file: Path) -> str:
    return json.dumps(str(file))


def sha256(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_run_whose_nodes_have_unlike_settings_and_data_ends_on_each_before_its_folder_is_claimed(
    root: Path, tmp_path: Path, free_port: int
) -> None:
    options, data = ("--nnodes", "2", "--master-port", str(free_port)), root / "egrc_mega/miniature/assets"
    unlike: list[tuple[str, ...]] = [(), ("run.seed=7", f"data.train={data / 'eval.jsonl'}")]
    nodes = [
        start_run(root, tmp_path / "run", *options, "--node-rank", str(rank), overrides=own)
        for rank, own in enumerate(unlike)
    ]
    start = f"egrc: error: the ranks disagree about {{}}: rank 0 on {socket.gethostname()} has {{}}, "
    start += f"rank 1 on {socket.gethostname()} has {{}}; "
    paths, hashes = ([of(data / f"{name}.jsonl") for name in ("train", "eval")] for of in (quoted, sha256))
    expected = [
        start.format("run.seed", 1, 7) + "start every node with the same configuration files and the same --set",
        start.format("data.train", *paths) + "start every node with the same configuration files and the same --set",
        start.format("the file data.train (SHA-256)", *hashes)
        + "copy the file anew, or give all nodes one that they share",
    ]
    for output in [finish_run(node, expected=2) for node in nodes]:
        assert [line for line in output.splitlines() if "disagree" in line] == expected
    assert not (tmp_path / "run" / "metrics.jsonl").exists() and not (tmp_path / "run" / LOCK).exists()


def test_a_rank_states_the_versions_of_what_it_computes_with(quickstart: Path, tmp_path: Path) -> None:
    found = statement(load_config([quickstart], [f"run.dir={tmp_path}"]).config)
    names = ("torch", "megatron-core", "transformers", "triton", "numpy")
    assert [found[f"package {name}"] for name in names] == [version(name) for name in names]
    assert found["package python"] == platform.python_version()
    assert found["config stages.0.clip_len"] == "72" and found["config rollout.urls"] == "[]"


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
