"""Sizes of gradients, closed or by backward passes, against autograd through the whole model in float64."""

from pathlib import Path

import numpy as np
import pytest
import torch

from egrc_mega.convert.hf_model import HfModel, last_block, load_hf_model, output_weight
from egrc_mega.diagnosis import token_figures as module
from egrc_mega.diagnosis.gradients import DrawnTokens, gradient_sizes, only_these_learn, output_logprobs
from egrc_mega.diagnosis.token_figures import token_figures
from egrc_mega.testing.tiny_model import write_tiny_model
from egrc_mega.types import token_array

PROMPT, OUTPUT = token_array([3, 4, 5]), token_array([7, 7, 9, 30, 1, 12, 39, 2])
FAMILIES = ("Qwen2", "Llama", "Qwen3Moe")


@pytest.fixture(scope="module", params=FAMILIES)
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> HfModel:
    return load_hf_model(write_tiny_model(request.param, tmp_path_factory.mktemp("model")), torch.float64)


def logits_of(model: HfModel) -> torch.Tensor:
    """Of the output tokens, by transformers' own forward pass."""
    ids = torch.tensor([[*PROMPT.tolist(), *OUTPUT.tolist()]])
    return model(ids).logits[0, len(PROMPT) - 1 : -1]


def chosen_of(logits: torch.Tensor) -> torch.Tensor:
    return logits.log_softmax(-1)[range(len(OUTPUT)), OUTPUT.tolist()]


def test_entropy_and_probability_are_those_of_the_softmax(model: HfModel) -> None:
    found = token_figures(model, PROMPT, OUTPUT, 100)
    logits = logits_of(model).detach()
    expected = torch.distributions.Categorical(logits=logits).entropy()
    np.testing.assert_allclose(found.entropy, expected.numpy(), rtol=1e-11)
    np.testing.assert_allclose(found.probability, chosen_of(logits).exp().numpy(), rtol=1e-11)


def test_the_closed_gradient_sizes_are_autograds(model: HfModel) -> None:
    found = token_figures(model, PROMPT, OUTPUT, 100)
    logits = logits_of(model).detach().requires_grad_()
    weight = output_weight(model).detach()
    for i, logprob in enumerate(chosen_of(logits)):
        [gradient] = torch.autograd.grad(logprob, logits, retain_graph=True)
        assert found.gradient_logits[i] == pytest.approx(float(gradient.norm()), rel=1e-10)
        assert found.gradient_hidden[i] == pytest.approx(float((gradient @ weight).norm()), rel=1e-10)


def test_a_nearly_certain_token_keeps_the_digits_of_its_gradient() -> None:
    """In float32, 1 - 2 p + sum p^2 would be 0 or noise here."""
    hidden, weight = torch.eye(3)[:1] * 18.0, torch.eye(3)
    entropy, probability, at_logits, _at_hidden = module._figures(hidden, weight, torch.tensor([0]))[:, 0].tolist()
    exact = torch.tensor([18.0, 0, 0], dtype=torch.float64).softmax(-1)
    assert at_logits == pytest.approx(float((exact - torch.tensor([1.0, 0, 0])).norm()), rel=1e-5)
    assert 0 < at_logits < 1e-7
    assert entropy > 0
    assert probability == pytest.approx(1)


@pytest.mark.parametrize("batch_tokens", [1, 2, 3, 5, 10])
def test_figures_do_not_depend_on_how_the_text_is_cut(
    batch_tokens: int, model: HfModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = token_figures(model, PROMPT, OUTPUT, 100)
    monkeypatch.setattr(module, "LOGITS_ELEMENTS", 2 * output_weight(model).shape[0])
    cut = token_figures(model, PROMPT, OUTPUT, batch_tokens)
    for name in module.TokenFigures.__slots__:
        np.testing.assert_allclose(getattr(cut, name), getattr(whole, name), rtol=1e-9, err_msg=name)


def test_logits_of_a_bounded_number_of_tokens_are_held(model: HfModel, monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    real = module._figures
    monkeypatch.setattr(module, "LOGITS_ELEMENTS", 3 * output_weight(model).shape[0])
    monkeypatch.setattr(module, "_figures", lambda hidden, *rest: (sizes.append(len(hidden)), real(hidden, *rest))[1])
    token_figures(model, PROMPT, OUTPUT, 100)
    assert sizes == [3, 3, 2]


def test_a_response_without_tokens_has_no_figures(model: HfModel) -> None:
    assert token_figures(model, PROMPT, token_array(), 100).entropy.shape == (0,)


def autograd_sizes(model: HfModel, parameters: list[torch.nn.Parameter]) -> list[float]:
    """Of every output token: through the whole model, without a shortcut."""
    sizes = []
    for i in range(len(OUTPUT)):
        model.zero_grad()
        chosen_of(logits_of(model))[i].backward()
        squares = [float(p.grad.pow(2).sum()) for p in parameters if p.grad is not None]
        sizes.append(sum(squares) ** 0.5)
    model.zero_grad()
    return sizes


@pytest.mark.parametrize("name", ["last_block", "full"])
def test_gradient_sizes_at_parameters_are_autograds(name: str, model: HfModel) -> None:
    parameters = last_block(model) if name == "last_block" else list(model.parameters())
    places = (0, 2, 5, 7)
    found = gradient_sizes(model, DrawnTokens(PROMPT, OUTPUT, places, places), parameters)
    expected = autograd_sizes(model, parameters)
    np.testing.assert_allclose(found, [expected[place] for place in places], rtol=1e-9)


def test_the_last_block_is_all_of_the_last_layer_and_nothing_else(model: HfModel) -> None:
    names = {name for name, parameter in model.named_parameters() for own in last_block(model) if own is parameter}
    last = max(int(name.split(".")[2]) for name, _p in model.named_parameters() if ".layers." in name)
    assert names == {name for name, _p in model.named_parameters() if f".layers.{last}." in name}


def test_afterwards_all_parameters_learn_as_before(model: HfModel) -> None:
    with only_these_learn(model, last_block(model)):
        assert sum(p.requires_grad for p in model.parameters()) == len(last_block(model))
    assert all(p.requires_grad for p in model.parameters())


def test_log_probs_of_some_places_are_those_of_all(model: HfModel) -> None:
    every = output_logprobs(model, PROMPT, OUTPUT)
    torch.testing.assert_close(every, chosen_of(logits_of(model)), rtol=1e-10, atol=0)
    torch.testing.assert_close(output_logprobs(model, PROMPT, OUTPUT, (1, 4)), every[[1, 4]], rtol=1e-10, atol=0)


def test_a_folder_that_other_readers_would_read_otherwise_is_refused(tmp_path: Path) -> None:
    from egrc_mega.errors import ModelError

    with pytest.raises(ModelError):
        load_hf_model(tmp_path)
