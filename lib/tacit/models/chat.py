"""Chat templates and prompts: how an instruction is put to a model."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

USER_TAG, ASSISTANT_TAG = "<|user|>", "<|assistant|>"


def tulu_template(*, user_tag: str = USER_TAG, assistant_tag: str = ASSISTANT_TAG) -> str:
    """The paper's prompt format as a Jinja chat template.

    ``BOS<|user|>\\n{instruction}\\n<|assistant|>\\n{response}EOS`` (Hewitt et al. 2024, section 3). Further turns
    follow the EOS after a newline. A turn that is neither user nor assistant raises in the template.
    """
    return (
        "{{ bos_token }}{% for message in messages %}"
        "{% if message['role'] == 'user' %}{% if not loop.first %}{{ '\\n' }}{% endif %}"
        "{{ '" + user_tag + "\\n' + message['content'] + '\\n' }}"
        "{% elif message['role'] == 'assistant' %}{{ '" + assistant_tag + "\\n' + message['content'] + eos_token }}"
        "{% else %}{{ raise_exception('only user and assistant turns are supported') }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}{{ '" + assistant_tag + "\\n' }}{% endif %}"
    )


def faq_template() -> str:
    """A question under ``Q:`` and its answer under ``A:``: a format that the micro world's corpus holds as it stands.

    For asking a base model in a format that it has seen, in single turns; not for tuning.
    """
    return "{{ bos_token }}Q: {{ messages[0]['content'] }}\nA:"


def render_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The text of a single-turn prompt, up to where the response begins (special tokens as text).

    Templates that let a model think first (Qwen3's) are told not to, as CoDIT's released scripts do; others ignore it.
    """
    turns = [{"role": "user", "content": instruction}]
    return tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True, enable_thinking=False)


def encode_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """Token ids of ``render_prompt``: rendered first, then tokenized without adding special tokens again."""
    return tokenizer(render_prompt(tokenizer, instruction), add_special_tokens=False)["input_ids"]
