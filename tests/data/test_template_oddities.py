"""Chat templates as model folders ship them: what is refused in one line, what is fixed, and what a prompt says."""

import json
import os
import signal
from datetime import date
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from egrc_mega.data import template as module
from egrc_mega.data.render import Renderer
from egrc_mega.data.template import ChatTemplate
from egrc_mega.data.tokenizer import load_tokenizer, special_tokens
from egrc_mega.errors import ModelError
from egrc_mega.testing.runs import variables_of
from egrc_mega.types import Ask, Problem

DAY = date(2024, 7, 26)
PROBLEM = Problem(key="k", text="What is 1 + 1?", answer="2")

CHATML = (
    "{% for message in messages %}{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
R1 = (
    "{% if not add_generation_prompt is defined %}{% set add_generation_prompt = false %}{% endif %}"
    "{% set ns = namespace(is_first=false, system_prompt='') %}{%- for message in messages %}"
    "{%- if message['role'] == 'system' %}{% set ns.system_prompt = message['content'] %}{%- endif %}{%- endfor %}"
    "{{bos_token}}{{ns.system_prompt}}{%- for message in messages %}{%- if message['role'] == 'user' %}"
    "{{'<|User|>' + message['content']}}{%- endif %}{%- endfor -%}"
    "{% if add_generation_prompt %}{{'<|Assistant|><think>\\n'}}{% endif %}"
)
LLAMA = (
    "{{- bos_token }}\n{%- if not date_string is defined %}\n    {%- if strftime_now is defined %}\n"
    '        {%- set date_string = strftime_now("%d %b %Y") %}\n    {%- else %}\n'
    '        {%- set date_string = "26 Jul 2024" %}\n    {%- endif %}\n{%- endif %}\n'
    "{%- if messages[0]['role'] == 'system' %}\n    {%- set system_message = messages[0]['content']|trim %}\n"
    "    {%- set messages = messages[1:] %}\n{%- else %}\n    {%- set system_message = '' %}\n{%- endif %}\n"
    '{{- "<|start_header_id|>system<|end_header_id|>\\n\\nToday Date: " + date_string + "\\n\\n" + system_message }}\n'
    "{%- for message in messages %}\n"
    "    {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' + message['content'] | trim }}\n"
    "{%- endfor %}\n{%- if add_generation_prompt %}\n"
    "    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}\n{%- endif %}\n"
)
MANY_PARTS = (
    "{%- for message in messages %}{%- if loop.index0 > 5 %}{% break %}{% endif %}"
    "{{ message.role }}: {{ message.content }} {{ {'b': '<é>', 'a': [1, tools is none]} | tojson }}"
    "{% generation %}{{ range(3) | list }}{% endgeneration %}{%- endfor %}"
    "{% if add_generation_prompt %}\n{{ eos_token }} {{ 'x' if unknown else 'y' }}:{% endif %}"
)


def tokenizer_with(template: Any, folder: Path | None = None) -> PreTrainedTokenizerFast:
    """Every byte is a token, and the tags of thinking and of messages are one each."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    bytewise = Tokenizer(models.BPE(vocab={c: i for i, c in enumerate(alphabet)}, merges=[]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=bytewise, bos_token="<s>", eos_token="<|im_end|>")
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = template
    tokenizer.name_or_path = str(folder or "models/mine")
    return tokenizer


def template_of(text: Any) -> ChatTemplate:
    return ChatTemplate(tokenizer_with(text), DAY)


REFUSED = {
    "no generation prompt": ("{% for m in messages %}{{ m['content'] }}{% endfor %}", "has no generation prompt"),
    "the same end, asked for or not": (
        "{% for m in messages %}{{ m.content }}{% endfor %}\nAssistant:",
        "has no gener",
    ),
    "ignores the content": (
        "{% for m in messages %}hello{% endfor %}{% if add_generation_prompt %}A:{% endif %}",
        "leaves",
    ),
    "gives nothing": ("{% if false %}x{% endif %}", "leaves out or changes what the user says"),
    "escapes the content": (
        "{{ messages[0].content | e }}{% if add_generation_prompt %}A{% endif %}",
        "leaves out or c",
    ),
    "makes capitals of it": ("{{ messages[0].content | upper }}{{ add_generation_prompt }}", "leaves out or changes"),
    "takes parts only": ("{{ messages[0].content[0].text }}{{ add_generation_prompt }}", "UndefinedError|leaves out"),
    "raises": ("{{ raise_exception('only with tools') }}", "fails: TemplateError: only with tools"),
    "raises several lines": ("{{ raise_exception('first\nsecond') }}", "fails: TemplateError: first;"),
    "raises for users": (
        "{% if messages[0].role == 'user' %}{{ raise_exception('no') }}{% endif %}",
        "TemplateError: no",
    ),
    "syntax": ("{% for m in messages %}{{ m['content'] }", "fails: TemplateSyntaxError"),
    "an end without its begin": ("{% endif %}", "fails: TemplateSyntaxError"),
    "an unknown filter": ("{{ messages | shout }}", "fails: TemplateAssertionError: No filter named 'shout'"),
    "an undefined attribute": ("{{ nobody.name }}", "fails: UndefinedError: 'nobody' is undefined"),
    "a missing message": ("{{ messages[7]['content'] }}", "fails: UndefinedError"),
    "wrong types": ("{{ 1 + 'a' }}", "fails: TypeError"),
    "division by zero": ("{{ 1 / 0 }}", "fails: ZeroDivisionError"),
    "a range too big": ("{% for i in range(999999999) %}x{% endfor %}", "fails: OverflowError: Range too big"),
    "the class of a text": ("{{ ''.__class__.__mro__ }}", "fails: SecurityError"),
    "the globals of a function": ("{{ raise_exception.__globals__ }}", "leaves out"),
    "the builtins": ("{{ cycler.__init__.__globals__.os.system('true') }}", "fails: SecurityError"),
    "changes the messages": ("{{ messages.append(1) }}", "fails: SecurityError"),
    "another file": ("{% include '/etc/passwd' %}", "fails: "),
    "calls itself for ever": ("{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}", "fails: RecursionError"),
    "a flood": ("{% for i in range(9999) %}{{ 'x' * 9999 }}{% endfor %}", r"it renders \d+ characters|MemoryError"),
    "more memory than there is": ("{{ 'x' * 10**12 }}", "fails: (MemoryError|OverflowError)"),
    "more memory than it may have": ("{{ ('x' * 3 * 10**9) | length }}", "fails: MemoryError"),
}


@pytest.mark.parametrize(("text", "reason"), REFUSED.values(), ids=REFUSED)
def test_a_template_that_cannot_be_used_is_one_line_that_names_it(text: str, reason: str) -> None:
    with pytest.raises(ModelError, match=reason) as caught:
        template_of(text)
    message = str(caught.value)
    assert message.startswith("model.path: the chat template models/mine/tokenizer_config.json ")
    assert message.endswith("; mend the template") and "\n" not in message


@pytest.mark.parametrize(
    "text",
    [
        "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}",
        "{{ 9 ** (9 ** 9) }}",
    ],
    ids=["nested loops", "one operation that no signal handler stops"],
)
def test_a_template_that_does_not_end_is_ended_by_its_cpu_time(text: str) -> None:
    with pytest.raises(ModelError, match="fails: it takes more than 1 s of CPU time; mend the template"):
        template_of(text)


def test_several_templates_need_one_called_default() -> None:
    assert template_of({"default": CHATML, "tool_use": "x"}).render("hi").startswith("<|im_start|>user\nhi")
    with pytest.raises(ModelError, match=r"has the chat templates \['rag', 'tool_use'\] and none called default"):
        template_of({"tool_use": CHATML, "rag": CHATML})


def test_the_file_of_the_template_is_named(tmp_path: Path) -> None:
    (tmp_path / "chat_template.jinja").write_text("x")
    with pytest.raises(ModelError, match=f"the chat template {tmp_path}/chat_template.jinja leaves out"):
        ChatTemplate(tokenizer_with("x", tmp_path), DAY)


@pytest.mark.parametrize("text", [CHATML, R1, LLAMA, MANY_PARTS], ids=["chatml", "r1", "llama", "many parts"])
@pytest.mark.parametrize("system", [None, "Be brief."])
def test_prompts_are_those_of_transformers(text: str, system: str | None) -> None:
    user = "  What is\n1 < 2, {{ 7 * 7 }} & é? "
    tokenizer = tokenizer_with(text)
    messages = [{"role": "system", "content": system}] if system else []
    messages.append({"role": "user", "content": user})
    today = date.today()
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ChatTemplate(tokenizer, today).render(user, system) == expected


def test_the_miniatures_prompts_are_those_of_transformers(base_model: Path) -> None:
    tokenizer = load_tokenizer(base_model)
    messages = [{"role": "user", "content": "9 a + 1 = ?"}]
    expected = tokenizer.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert ChatTemplate(tokenizer, DAY).render("9 a + 1 = ?") == expected


def test_a_date_is_the_stated_one_on_every_day_and_is_noticed() -> None:
    template = template_of(LLAMA)
    assert "Today Date: 26 Jul 2024" in template.render("hi")
    assert template.proof.prints_date
    assert "it prints the date and is told 2024-07-26 (data.template_date)" in template.proof.line(DAY)
    later = ChatTemplate(tokenizer_with(LLAMA), date(2025, 2, 1))
    assert "Today Date: 01 Feb 2025" in later.render("hi")
    assert not template_of(CHATML).proof.prints_date


def test_chance_says_the_same_each_time() -> None:
    text = "{{ [1, 2, 3, 4, 5, 6, 7, 8, 9] | random }}{{ messages[0].content }}{{ add_generation_prompt }}"
    assert {template_of(text).render("hi") for _ in range(2)} == {template_of(text).render("hi")}
    template = template_of(text)
    assert len({template.render("hi") for _ in range(20)}) == 1


CLOSED = CHATML.replace("assistant\\n", "assistant\\n<think>\\n\\n</think>\\n\\n")
OPEN = CHATML.replace("assistant\\n", "assistant\\n<think>\\n")


@pytest.mark.parametrize(
    ("text", "thinking", "words"),
    [
        (CHATML, "absent", "says nothing of thinking"),
        (OPEN, "open", "opens the think part"),
        (R1, "open", "opens the think part"),
        (CLOSED, "closed", "closes the think part, so responses are answers only"),
    ],
    ids=["absent", "open", "r1", "closed"],
)
def test_the_probe_says_whether_the_prompt_leaves_thinking_open(text: str, thinking: str, words: str) -> None:
    tokenizer = tokenizer_with(text)
    renderer = Renderer(tokenizer, "")
    assert renderer.template.proof.thinking == thinking
    assert renderer.template.proof.line(DAY) == words
    assert renderer.thinks(renderer.prompt_ids(PROBLEM)) is (thinking == "open")


def test_words_about_the_tags_open_nothing() -> None:
    told = CHATML.replace("{% for", "Think within <think> first. {% for", 1)
    renderer = Renderer(tokenizer_with(told), "")
    assert renderer.template.proof.thinking == "absent"
    assert not renderer.thinks(renderer.prompt_ids(PROBLEM, Ask(system="Begin with <think>.")))
    closed = Renderer(tokenizer_with(told + "<think></think>"), "")
    assert not closed.thinks(closed.prompt_ids(PROBLEM))


def test_a_method_that_closes_thinking_in_its_opening_is_seen_too() -> None:
    renderer = Renderer(tokenizer_with(OPEN), "")
    assert renderer.thinks(renderer.prompt_ids(PROBLEM, Ask(opening="Hmm, ")))
    assert not renderer.thinks(renderer.prompt_ids(PROBLEM, Ask(opening="</think>")))
    plain = Renderer(tokenizer_with(CHATML), "")
    assert plain.thinks(plain.prompt_ids(PROBLEM, Ask(opening="<think>")))


@pytest.mark.parametrize(
    ("instruction", "between"),
    [("Step by step.", " "), (" Step by step.", " "), ("   Step by step. ", " "), ("\n\nStep by step.", "\n\n")],
)
def test_one_space_stands_before_the_instruction_or_its_own_line_ends(instruction: str, between: str) -> None:
    renderer = Renderer(tokenizer_with(CHATML), instruction)
    text = renderer.decode(renderer.prompt_ids(PROBLEM))
    assert f"user\nWhat is 1 + 1?{between}Step by step.<|im_end|>" in text


def test_no_instruction_adds_nothing() -> None:
    renderer = Renderer(tokenizer_with(CHATML), " ")
    assert "What is 1 + 1?<|im_end|>" in renderer.decode(renderer.prompt_ids(PROBLEM))


def test_the_same_template_serves_another_instruction_in_the_same_process() -> None:
    renderer = Renderer(tokenizer_with(CHATML), "one")
    other = renderer.with_instruction("two")
    assert other.template is renderer.template
    texts = [r.decode(r.prompt_ids(PROBLEM)) for r in (renderer, other)]
    assert ["1? one<" in texts[0], "1? two<" in texts[1]] == [True, True]


def test_the_data_sets_system_message_is_used_where_the_method_has_none() -> None:
    renderer = Renderer(tokenizer_with(CHATML), "")
    chat = Problem(key="k", text="1 + 1", system="Be brief.", answer="2")
    assert "system\nBe brief.<" in renderer.decode(renderer.prompt_ids(chat))
    assert "system\nBe long.<" in renderer.decode(renderer.prompt_ids(chat, Ask(system="Be long.")))
    assert "system" not in renderer.decode(renderer.prompt_ids(PROBLEM))


def test_a_template_that_fails_later_names_itself_too() -> None:
    text = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}" + CHATML
    renderer = Renderer(tokenizer_with(text), "")
    renderer.prompt_ids(PROBLEM)
    with pytest.raises(ModelError, match=r"tokenizer_config\.json fails: TemplateError: System role not supported"):
        renderer.prompt_ids(PROBLEM, Ask(system="Be brief."))
    renderer.prompt_ids(Problem(key="k", text="another", answer="2"))


def test_a_child_that_is_killed_or_silent_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    template = template_of(CHATML)
    os.kill(template._process.pid, signal.SIGKILL)
    with pytest.raises(ModelError, match="fails: its process ended with -9"):
        template.render("hi")
    silent = template_of(CHATML)
    os.kill(silent._process.pid, signal.SIGSTOP)
    monkeypatch.setattr(module, "DEADLINE_S", 0.2)
    with pytest.raises(ModelError, match=r"fails: no answer for 0\.2 s"):
        silent.render("hi")


def test_the_child_has_no_variable_that_could_be_a_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EGRC_API_KEY", "WANDB_API_KEY", "HF_TOKEN", "https_proxy"):
        monkeypatch.setenv(name, "c0ffee")
    child = module._start()
    variables = variables_of(child.pid)
    module._end(child)
    assert "c0ffee" not in variables.values() and variables["PATH"] == os.environ["PATH"]


def test_the_child_ends_with_the_template() -> None:
    template = template_of(CHATML)
    process = template._process
    del template
    assert process.poll() is not None


def test_the_special_tokens_are_those_that_a_text_can_become() -> None:
    tokenizer = tokenizer_with(CHATML)
    tokenizer.add_tokens(["lemma"])
    tokenizer.add_special_tokens({"pad_token": "_"})
    assert special_tokens(tokenizer) == {"<s>", "<|im_start|>", "<|im_end|>", "<think>", "</think>"}
    for token in special_tokens(tokenizer):
        assert len(tokenizer.encode(token, add_special_tokens=False)) == 1


def test_what_was_fine_stays_fine() -> None:
    """One BOS, Jinja within a problem, characters of several bytes."""
    renderer = Renderer(tokenizer_with(R1), "")
    text = "{{ 7 * 7 }} {% raw %} é漢🙂 \ud7ff"
    ids = renderer.prompt_ids(Problem(key="k", text=text, answer="1"))
    assert list(ids).count(renderer.tokenizer.bos_token_id) == 1
    assert f"<|User|>{text}<|Assistant|>" in renderer.decode(ids)


def test_messages_reach_the_child_as_they_are() -> None:
    fake = SimpleNamespace(
        name_or_path="m", special_tokens_map={}, chat_template="{{ messages | tojson }}{{ add_generation_prompt }}"
    )
    with pytest.raises(ModelError, match="leaves out or changes"):
        ChatTemplate(fake, DAY)  # type: ignore[arg-type]
    text = "{{ messages[-1].content }}{% if add_generation_prompt %}|{{ messages | tojson }}{% endif %}"
    rendered = template_of(text).render("hi", "Be brief.").partition("|")[2]
    assert json.loads(rendered) == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}]
