"""The embedded server computes every family that the converter knows, token by token as transformers does at once."""

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from egrc_mega.convert.hf_model import load_hf_model
from egrc_mega.embedded.batch import DecodingBatch, Request
from egrc_mega.embedded.engine import _eos_ids
from egrc_mega.embedded.sampling import SamplingParams
from egrc_mega.testing.tiny_model import FAMILIES, write_tiny_model


@pytest.mark.parametrize("family", FAMILIES)
def test_responses_of_every_family_have_the_log_probs_that_transformers_computes(family: str, tmp_path: Path) -> None:
    model = load_hf_model(write_tiny_model(family, tmp_path / "model"))
    params = SamplingParams(max_new_tokens=6, temperature=1.0)
    requests = [Request("r", prompt, params, frozenset()) for prompt in ([3, 4, 5], [7] * 20)]
    for request in requests:
        request.uniforms = params.uniforms()
    with torch.inference_mode():
        batch = DecodingBatch(model, requests, "v0")
        while not batch.is_done:
            batch.step("v0")
        for request in requests:
            ids = torch.tensor([[*request.prompt_ids, *request.output_ids]])
            whole = model(ids).logits[0, len(request.prompt_ids) - 1 : -1].log_softmax(-1)
            expected = whole[range(6), request.output_ids]
            torch.testing.assert_close(torch.tensor(request.logprobs), expected, atol=1e-5, rtol=0)


def test_a_token_belongs_to_the_weights_that_its_logits_are_from_also_right_after_an_update(tmp_path: Path) -> None:
    model = load_hf_model(write_tiny_model("Qwen2", tmp_path / "model"))
    request = Request("r", [3, 4, 5], SamplingParams(max_new_tokens=4), frozenset())
    request.uniforms = request.params.uniforms()
    with torch.inference_mode():
        batch = DecodingBatch(model, [request], "v0")
        batch.step("v0")
        logits = batch.logits_BV[0].log_softmax(-1)
        for parameter in model.parameters():  # paused in place, the weights move
            parameter.mul_(1.5)
        batch.step("v1")
        assert request.logprobs[1] == pytest.approx(float(logits[request.output_ids[1]]), abs=1e-6)
        batch.step("v1")
    assert request.version_starts == [("v0", 0), ("v1", 2)]


def test_several_ends_of_a_response_are_obeyed_wherever_they_are_stated(tmp_path: Path) -> None:
    folder = write_tiny_model("Llama", tmp_path / "model", eos_token_id=[2, 3])
    assert _eos_ids(AutoModelForCausalLM.from_pretrained(folder)) == {2, 3}
    (folder / "generation_config.json").write_text('{"eos_token_id": [5, 3]}')
    assert _eos_ids(AutoModelForCausalLM.from_pretrained(folder)) == {2, 3, 5}
