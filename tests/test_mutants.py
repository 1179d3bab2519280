"""The mutants fit the code as it stands, and whoever runs them tells the killed from the living."""

from pathlib import Path

import orjson
import pytest

from egrc_mega.testing.mutants import Mutant, copied, main, read_mutants, run, share_killed, verdict

TEST = "from egrc_mega.add import add\n\n\ndef test_it() -> None:\n    {}\n"

pytestmark = pytest.mark.long_file


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository of one function and one test."""
    for folder in ("egrc_mega", "kernels", "tests", "configs"):
        (tmp_path / folder).mkdir()
    (tmp_path / "pyproject.toml").write_text("")
    (tmp_path / "egrc_mega" / "__init__.py").write_text("")
    (tmp_path / "egrc_mega" / "add.py").write_text("def add(a, b):\n    return a + b\n")
    (tmp_path / "tests" / "test_add.py").write_text(TEST.format("assert add(2, 2) == 4"))
    return tmp_path


def mutant(new: str, **fields: object) -> Mutant:
    known = {"id": new, "file": "egrc_mega/add.py", "old": "a + b", "new": new, "tests": ["tests/test_add.py"]}
    return Mutant(**(known | fields))  # type: ignore[arg-type]


def test_every_mutant_changes_the_code_in_one_place_and_names_tests_that_are_there(root: Path) -> None:
    mutants = read_mutants()
    assert len({one.id for one in mutants}) == len(mutants) >= 110
    for one in mutants:
        assert (root / one.file).is_file(), one.id
        if one.equivalent:
            assert one.equivalent.endswith(".") and not one.old, one.id
            continue
        assert (root / one.file).read_text().count(one.old) == 1, one.id
        assert one.new != one.old, one.id
        assert one.tests and all((root / test).exists() for test in one.tests), one.id


def test_most_of_the_mutants_are_no_equivalents() -> None:
    mutants = read_mutants()
    assert sum(bool(one.equivalent) for one in mutants) <= len(mutants) / 10


@pytest.mark.parametrize(("new", "expected"), [("a - b", "killed"), ("a * b", "survived"), ("undefined +", "killed")])
def test_a_mutant_is_killed_when_its_tests_fail_or_cannot_be_read(tree: Path, new: str, expected: str) -> None:
    assert verdict(tree, mutant(new), 120)[0] == expected
    assert "a + b" in (tree / "egrc_mega" / "add.py").read_text()


def test_tests_that_are_not_there_are_no_verdict(tree: Path) -> None:
    assert verdict(tree, mutant("a - b", tests=["tests/test_elsewhere.py"]), 120)[0] == "failed to run"


def test_a_mutant_that_hangs_is_ended_and_counts_as_alive(tree: Path) -> None:
    found = run([mutant("a if __import__('time').sleep(900) else b")], jobs=1, timeout_s=8, root=tree)
    assert found["timed out"] and not found["killed"]
    assert share_killed(found) == 0.0


def test_an_equivalent_is_not_run_and_not_counted(tree: Path) -> None:
    same = Mutant(id="same", file="egrc_mega/add.py", equivalent="It adds the other way round.")
    found = run([same, mutant("a - b"), mutant("a * b")], jobs=2, timeout_s=120, root=tree)
    assert found == {"killed": ["a - b"], "survived": ["a * b"], "equivalent": ["same"]}
    assert share_killed(found) == 0.5
    assert share_killed({"killed": [], "survived": [], "equivalent": ["same"]}) == 1.0


@pytest.mark.parametrize("old", ["a / b", "a"])
def test_a_change_that_has_no_one_place_is_refused(tree: Path, tmp_path: Path, old: str) -> None:
    with pytest.raises(ValueError, match=r"mutant x: its `old` stands \d+ times in egrc_mega/add\.py"):
        mutant("x", old=old).apply(tree)


def test_an_unknown_id_is_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "mutants.jsonl"
    file.write_bytes(orjson.dumps({"id": "one", "file": "f", "equivalent": "It is."}) + b"\n")
    with pytest.raises(SystemExit):
        main(["two", "--mutants", str(file)])
    assert "has no two" in capsys.readouterr().err
    assert main(["--mutants", str(file), "--out", str(tmp_path / "out.json")]) == 0
    assert orjson.loads((tmp_path / "out.json").read_bytes())["equivalent"] == ["one"]


def test_a_copy_has_all_that_tests_read(root: Path, tmp_path: Path) -> None:
    tree = copied(root, tmp_path)
    assert (tree / "egrc_mega" / "train.py").is_file() and (tree / "kernels" / "egrc_kernels").is_dir()
    assert not list(tree.rglob("__pycache__"))
