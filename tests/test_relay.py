"""What a rank leaves for the command that has started it."""

from pathlib import Path

import pytest

from egrc_mega import relay
from egrc_mega.errors import ConfigError, HangError, PolicyError, RelayedError, Stopped


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "error.json"
    monkeypatch.setenv(relay.VARIABLE, str(path))
    return path


def test_an_error_arrives_with_its_message_and_code(file: Path) -> None:
    relay.report_error(PolicyError("too far apart"))
    with pytest.raises(RelayedError, match=r"^too far apart$") as error:
        relay.raise_reported(file)
    assert error.value.exit_code == PolicyError.exit_code


@pytest.mark.parametrize("first", ["cause", "relayed"])
def test_the_rank_that_knows_the_cause_is_heard_whoever_speaks_first(file: Path, first: str) -> None:
    speak = [lambda: relay.report_error(ConfigError("the cause")), lambda: relay.report_relayed(RelayedError("?", 2))]
    for say in speak if first == "cause" else reversed(speak):
        say()
    with pytest.raises(RelayedError, match=r"^the cause$"):
        relay.raise_reported(file)


def test_what_other_ranks_suffer_by_the_first_error_does_not_take_its_place(file: Path) -> None:
    relay.report_error(HangError("the run hangs"))
    relay.report_error(PolicyError("connection closed by peer"))
    with pytest.raises(RelayedError, match=r"^the run hangs$") as error:
        relay.raise_reported(file)
    assert error.value.exit_code == HangError.exit_code
    assert list(file.parent.iterdir()) == [file]


def test_on_a_node_without_rank_0_its_code_arrives_all_the_same(file: Path) -> None:
    relay.report_relayed(RelayedError("rank 0 has failed and said why", Stopped.exit_code))
    with pytest.raises(RelayedError, match="rank 0") as error:
        relay.raise_reported(file)
    assert error.value.exit_code == 75


def test_where_nobody_has_left_anything_nothing_is_raised(file: Path) -> None:
    assert list(file.parent.iterdir()) == []
    relay.raise_reported(file)
    assert list(file.parent.iterdir()) == []


def test_without_a_launcher_an_error_is_printed_and_a_stop_is_none(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delenv(relay.VARIABLE, raising=False)
    relay.report_error(ConfigError("a\nb"))
    relay.report_error(Stopped("stopped after step 3"))
    relay.report_relayed(RelayedError("not for the console", 2))
    assert capsys.readouterr().err == "egrc: error: a\negrc: error: b\negrc: stopped after step 3\n"
