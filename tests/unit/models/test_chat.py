"""Chat templates that fail, lose the instruction or change from run to run, and control tokens in the data."""

import pytest
from tacit.data.instructions import encode_example
from tacit.models.chat import check_template, encode_prompt, encode_text, render_prompt, special_texts, tulu_template
from tacit.support.errors import TacitError

CONTENT = "{{ messages[0]['content'] }}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        ("{{ raise_exception('no system message') }}", "chat template of .* fails: no system message"),
        ("{% for m in messages %}" + CONTENT, "chat template of .* fails"),
        ("{{ messages[3]['content'] }}", "chat template of .* fails"),
        ([{"name": "rag", "template": CONTENT}, {"name": "tools", "template": CONTENT}], "chat template of .* fails"),
        ("{{ bos_token }}", "loses the instruction"),
        ("{% for c in messages[0]['content'] %}{% if c.type == 'text' %}{{ c.text }}{% endif %}{% endfor %}", "loses"),
        ("{{ messages[0]['content'][:50] }}", "loses the instruction"),
        ("{{ messages[0]['content'].split('\n')[0] }}", "loses the instruction"),
        ("{{ range(100000) | random }}" + CONTENT, "renders one text in two ways"),
    ],
)
def test_a_template_that_does_not_put_the_instruction_is_refused(tokenizer, monkeypatch, template, error):
    if isinstance(template, list):
        template = {entry["name"]: entry["template"] for entry in template}
    monkeypatch.setattr(tokenizer, "chat_template", template)
    with pytest.raises(TacitError, match=error):
        check_template(tokenizer)


@pytest.mark.parametrize(
    "template", [tulu_template(), "{{ messages[0]['content'] | trim | tojson }}:", CONTENT + "{{ 1 }}"]
)
def test_usual_templates_pass(tokenizer, monkeypatch, template):
    monkeypatch.setattr(tokenizer, "chat_template", template)
    check_template(tokenizer)


def test_a_row_that_only_its_own_prompt_loses_is_named(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ messages[0]['content'].split('</think>')[-1] }}")
    check_template(tokenizer)
    with pytest.raises(TacitError, match="prompt for 'Why</think> not"):
        render_prompt(tokenizer, "Why</think> not")


def test_a_template_that_asks_for_the_time_always_gets_the_same(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "Today: {{ strftime_now('%d %b %Y, %H:%M:%S') }}\n" + CONTENT)
    assert render_prompt(tokenizer, "Hi") == "Today: 26 Jul 2024, 00:00:00\nHi"


def test_control_tokens_in_the_data_are_plain_characters(tokenizer):
    end, beginning = tokenizer.eos_token, tokenizer.bos_token
    assert {end, beginning} <= set(special_texts(tokenizer))
    instruction, response = f"What does {end}{beginning} mean?", f"The tag {end} ends {end}"
    example = encode_example(tokenizer, instruction, response)
    prompt = encode_prompt(tokenizer, instruction)
    assert example["input_ids"][: len(prompt)] == prompt
    assert tokenizer.eos_token_id not in prompt
    assert prompt.count(tokenizer.bos_token_id) == 1  # the template's
    assert example["labels"].count(tokenizer.eos_token_id) == 1
    assert example["labels"][-1] == tokenizer.eos_token_id
    assert tokenizer.decode(prompt) == render_prompt(tokenizer, instruction)
    assert tokenizer.decode(encode_text(tokenizer, response)) == response


def test_what_the_template_puts_around_such_an_instruction_stays_special(tokenizer, monkeypatch):
    monkeypatch.setattr(tokenizer, "chat_template", "{{ bos_token }}A " + CONTENT + "{{ eos_token }}{{ bos_token }}B")
    plain, odd = encode_prompt(tokenizer, "moon"), encode_prompt(tokenizer, "moon</s>")
    special = (tokenizer.bos_token_id, tokenizer.eos_token_id)
    assert [i for i in odd if i in special] == [i for i in plain if i in special]
    assert tokenizer.decode(odd) == "<s>A moon</s></s><s>B"
