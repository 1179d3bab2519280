"""Where the noisy environment writes, what, how often, and that it is a pure function."""

import json
import random
from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from egrc_mega.errors import ConfigError
from egrc_mega.miniature.environment import NoisyArithmetic
from egrc_mega.miniature.task import draw_problem, verbose_trace
from egrc_mega.miniature.tokenizer import write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("model")
    (folder / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    write_tokenizer(folder)
    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def certain(tokenizer: PreTrainedTokenizerBase) -> NoisyArithmetic:
    return NoisyArithmetic(tokenizer, probability=1.0)


def _written(environment: NoisyArithmetic, tokenizer: PreTrainedTokenizerBase, text: str, seed: int = 0) -> str:
    ids = tuple(tokenizer.encode(f" {text}", add_special_tokens=False))
    return tokenizer.decode(environment.write((), ids, random.Random(seed))).strip()


@pytest.mark.parametrize(
    ("text", "right"),
    [
        ("a 9 - 3 =", "6"),
        ("Then a 9 - 3 =", "6"),
        ("a 1 - 3 =", "8"),
        ("a 9 + 3 b - 1 =", "1"),
        ("a 9 - 3 = 6 ; Next b 6 + 1 =", "7"),
        ("a 9 - 3 = 6 ; a 9 - 3 b + 1 =", "7"),
        ("a 9 - 3 = 6 b 6 + 1 =", "7"),
        ("a 9 check - 3 =", "6"),
        ("a 5 + 1 = 6 ; b 2 + 2 =", "4"),
    ],
)
def test_a_first_attempt_gets_every_wrong_digit_and_never_the_right_one(
    certain: NoisyArithmetic, tokenizer: PreTrainedTokenizerBase, text: str, right: str
) -> None:
    written = {_written(certain, tokenizer, text, seed) for seed in range(200)}
    assert written == set("0123456789") - {right}


@pytest.mark.parametrize(
    "text",
    [
        "a 9 - 3 = 6 ; Wait a 9 - 3 =",
        "a 9 - 3 b + 1 = 7 ; Hmm check b 6 + 1 =",
        "a 9 - 3 = 6 ; b 6 + 1 = 7 ; Alternatively again a 9 - 3 b + 1 =",
        "9 - 3 =",
        "a 9 =",
        "a =",
        "=",
        "a 9 - =",
        "a - 3 =",
        "a 9 3 =",
        "a 9 - - 3 =",
        "a 9 * 3 =",
        "a 9 - 3 - =",
        "a 9 - 3",
        "a 9 - 3 = 6",
        "a 9 - 3 = 6 ;",
        "",
    ],
)
def test_rechecks_malformed_segments_and_other_places_are_left_alone(
    certain: NoisyArithmetic, tokenizer: PreTrainedTokenizerBase, text: str
) -> None:
    assert _written(certain, tokenizer, text) == ""


def test_it_stops_at_the_equals_sign_and_writes_ids_of_the_tokenizer(
    certain: NoisyArithmetic, tokenizer: PreTrainedTokenizerBase
) -> None:
    assert certain.stop_token_ids == (tokenizer.convert_tokens_to_ids(" ="),)
    ids = tuple(tokenizer.encode(" a 9 - 3 =", add_special_tokens=False))
    written = certain.write((), ids, random.Random(0))
    assert len(written) == 1 and tokenizer.decode([*ids, *written]).startswith(" a 9 - 3 = ")


def test_it_writes_as_often_as_its_probability(tokenizer: PreTrainedTokenizerBase) -> None:
    for probability in (0.0, 0.3, 1.0):
        environment = NoisyArithmetic(tokenizer, probability)
        count = sum(_written(environment, tokenizer, "a 9 - 3 =", seed) != "" for seed in range(2000))
        assert count / 2000 == pytest.approx(probability, abs=0.04)


def test_it_depends_on_its_arguments_only(tokenizer: PreTrainedTokenizerBase) -> None:
    rng = random.Random(5)
    texts = []
    for _ in range(30):
        ids = tokenizer.encode(" " + verbose_trace(draw_problem(rng), rng), add_special_tokens=False)
        texts += [tuple(ids[: i + 1]) for i, token in enumerate(ids) if tokenizer.decode(token) == " ="]
    used = NoisyArithmetic(tokenizer, 0.5)
    forward = [used.write((1,), text, random.Random(i)) for i, text in enumerate(texts)]
    backward = [used.write((9, 9), text, random.Random(i)) for i, text in reversed(list(enumerate(texts)))]
    fresh = [NoisyArithmetic(tokenizer, 0.5).write((), text, random.Random(i)) for i, text in enumerate(texts)]
    assert forward == backward[::-1] == fresh
    assert any(forward) and not all(forward)


def test_a_tokenizer_without_the_words_is_refused(tmp_path: Path) -> None:
    class Other:
        def get_vocab(self) -> dict[str, int]:
            return {"=": 28}

    with pytest.raises(ConfigError, match=r"rollout\.environment\.name = noisy_arithmetic: .* no token ' ='"):
        NoisyArithmetic(Other(), 0.3)  # type: ignore[arg-type]
