"""Spare servers in a configuration: what they inherit, and what is refused before anything starts."""

from pathlib import Path
from typing import Any

import pytest

from egrc_mega.config.check import problems
from egrc_mega.config.config import Config
from egrc_mega.config.load import load_config
from egrc_mega.config.spare import spare_servers

GPUS = {"server": "sglang", "device": "cuda", "gpus": [4, 5]}


def config_of(root: Path, spare: dict[str, Any], **rollout: Any) -> Config:
    config = load_config(root / "configs/quickstart.yaml").config.to_dict()
    config["rollout"] |= rollout
    config["evaluation"]["spare"] = spare
    return Config.model_validate(config)


def told(config: Config) -> list[str]:
    """What is wrong with the spare servers."""
    return [str(problem) for problem in problems(config, 1, 1) if "spare" in str(problem)]


@pytest.mark.parametrize(
    ("spare", "rollout", "expected"),
    [
        ({}, {"server": "external", "urls": ["http://a:1"]}, "evaluation.spare.urls: empty, but rollout.server is"),
        ({"urls": ["http://a:1"]}, {}, "evaluation.spare.urls: given, but rollout.server is embedded"),
        ({"announce_dir": "/x"}, {}, "evaluation.spare.announce_dir: given, but rollout.server is embedded"),
        ({"urls": ["http://a:1"]}, {"server": "external", "urls": ["http://a:1"]}, "stand in rollout.urls, too"),
        (
            {"announce_dir": "/x"},
            {"server": "external", "announce_dir": "/x"},
            "evaluation.spare.announce_dir: /x is that of the servers that sample",
        ),
        ({"gpus": [6, 7]}, {**GPUS, "num_servers": 2}, "[6, 7], but num_servers x rollout.tensor_parallel_size need 1"),
        ({"gpus": [5]}, {**GPUS, "num_servers": 2}, "evaluation.spare.gpus: [5] are the other servers'"),
        ({"gpus": [0]}, {**GPUS, "num_servers": 2}, "evaluation.spare.gpus: [0] are the trainer's"),
    ],
)
def test_spare_servers_that_are_not_there_or_not_spare_are_refused(
    spare: dict[str, Any], rollout: dict[str, Any], expected: str, root: Path
) -> None:
    found = told(config_of(root, spare, **rollout))
    assert len(found) == 1 and expected in found[0]


@pytest.mark.parametrize(
    ("spare", "rollout"),
    [
        ({}, {}),
        ({"num_servers": 2}, {**GPUS, "num_servers": 2}),
        ({"urls": ["http://b:1"]}, {"server": "external", "urls": ["http://a:1"]}),
        ({"announce_dir": "/y"}, {"server": "external", "announce_dir": "/x"}),
    ],
)
def test_spare_servers_of_their_own_are_taken(spare: dict[str, Any], rollout: dict[str, Any], root: Path) -> None:
    assert told(config_of(root, spare, **rollout)) == []


def test_spare_servers_have_their_own_place_and_the_rest_of_the_other_servers(root: Path) -> None:
    more = {"num_servers": 2, "tensor_parallel_size": 2, "gpus": [4, 5, 6, 7], "port": 30000, "max_restarts": 7}
    config = config_of(root, {"num_servers": 3}, **{**GPUS, **more})
    spare = config.evaluation.spare
    assert spare is not None
    found = spare_servers(config.rollout, spare)
    # they follow the others: two more processes, then two more GPUs each
    assert (found.num_servers, found.port, found.gpus) == (3, 30002, tuple(range(8, 14)))
    assert (found.server, found.tensor_parallel_size, found.max_restarts) == ("sglang", 2, 7)
    colocated = config.rollout.model_copy(update={"colocated": True, "port": 0})
    assert (spare_servers(colocated, spare).colocated, spare_servers(colocated, spare).port) == (False, 0)


def test_the_folder_in_which_they_announce_themselves_is_beside_its_file(tmp_path: Path, root: Path) -> None:
    file = tmp_path / "more.yaml"
    file.write_text("evaluation: {spare: {announce_dir: servers}}\nrollout: {server: external, announce_dir: others}")
    spare = load_config([root / "configs/quickstart.yaml", file]).config.evaluation.spare
    assert spare is not None and spare.announce_dir == tmp_path / "servers"
