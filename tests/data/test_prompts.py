"""The cursor is one integer: prompts depend on seed and position, never on what was taken before."""

from pathlib import Path

import pytest
from transformers import PreTrainedTokenizerBase

from egrc_mega.config.schema import DataSection
from egrc_mega.data.chat import render_prompt
from egrc_mega.data.prompts import PromptSource, load_prompts
from egrc_mega.data.tokenizer import load_tokenizer
from egrc_mega.miniature.tokenizer import write_tokenizer
from egrc_mega.types import Prompt

NUM_ROWS = 7


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("model")
    write_tokenizer(folder)
    (folder / "config.json").write_text('{"model_type": "qwen2"}')
    return load_tokenizer(folder)


@pytest.fixture
def section(tmp_path: Path) -> DataSection:
    path = tmp_path / "train.jsonl"
    path.write_text("".join(f'{{"problem": "{i} a + 1 = ?", "answer": "{i + 1}"}}\n' for i in range(NUM_ROWS)))
    return DataSection(train=path)


def facts(prompts: list[Prompt]) -> list[tuple]:
    return [(p.id, p.text, p.token_ids.tolist(), p.answer) for p in prompts]


def test_the_template_renders_one_user_message_with_the_generation_prompt(tokenizer: PreTrainedTokenizerBase) -> None:
    ids = render_prompt(tokenizer, "9 a - 3 = ?", "")
    assert tokenizer.decode(ids) == "<bos> 9 a - 3 = ? <think>"
    assert tokenizer.unk_token_id not in ids and ids.count(tokenizer.bos_token_id) == 1
    assert (
        tokenizer.decode(render_prompt(tokenizer, "9 a - 3 = ?", "check again"))
        == "<bos> 9 a - 3 = ? check again <think>"
    )


def test_any_cut_of_the_positions_gives_the_same_prompts(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    whole = facts(PromptSource(section, tokenizer, 3, tmp_path / "q").take(0, 20))
    again = PromptSource(section, tokenizer, 3, tmp_path / "q")
    assert [p for start in (15, 0, 5, 10) for p in facts(again.take(start, 5))] == whole[15:] + whole[:15]
    assert again.take(4, 0) == []


def test_every_epoch_has_every_row_once_in_an_order_of_its_own(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    source = PromptSource(section, tokenizer, 3, tmp_path / "q")
    epochs = [source.take(epoch * NUM_ROWS, NUM_ROWS) for epoch in range(3)]
    lines = [[int(p.id.split(":")[1].split("#")[0]) for p in epoch] for epoch in epochs]
    assert all(sorted(order) == list(range(1, NUM_ROWS + 1)) for order in lines)
    assert len({tuple(order) for order in lines}) == 3
    assert len({p.id for epoch in epochs for p in epoch}) == 3 * NUM_ROWS, "ids are unique in the run"
    assert epochs[0][0].id == f"train.jsonl:{lines[0][0]}" and epochs[2][0].id == f"train.jsonl:{lines[2][0]}#2"


def test_another_seed_gives_another_order(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    orders = [
        [p.id for p in PromptSource(section, tokenizer, seed, tmp_path / "q").take(0, NUM_ROWS)] for seed in (1, 2)
    ]
    assert orders[0] != orders[1] and sorted(orders[0]) == sorted(orders[1])


def test_without_shuffling_the_files_order_is_kept(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    plain = section.model_copy(update={"shuffle": False})
    taken = PromptSource(plain, tokenizer, 3, tmp_path / "q").take(5, 4)
    assert [(p.id, p.text, p.answer) for p in taken] == [
        ("train.jsonl:6", "5 a + 1 = ?", "6"),
        ("train.jsonl:7", "6 a + 1 = ?", "7"),
        ("train.jsonl:1#1", "0 a + 1 = ?", "1"),
        ("train.jsonl:2#1", "1 a + 1 = ?", "2"),
    ]
    assert taken[0].token_ids.tolist() == list(render_prompt(tokenizer, "5 a + 1 = ?", ""))


def test_evaluation_takes_the_first_good_problems_in_order(
    section: DataSection, tokenizer: PreTrainedTokenizerBase, tmp_path: Path
) -> None:
    section.train.write_text("{\n" + section.train.read_text())
    lenient = section.model_copy(update={"max_quarantined_share": 0.5})
    prompts = load_prompts(section.train, lenient, tokenizer, 3, tmp_path / "q")
    assert [p.id for p in prompts] == ["train.jsonl:2", "train.jsonl:3", "train.jsonl:4"]
    assert len(load_prompts(section.train, lenient, tokenizer, 100, tmp_path / "q")) == NUM_ROWS
