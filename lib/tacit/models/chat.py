"""Chat templates and prompts: how an instruction is put to a model."""

from __future__ import annotations

import re
from datetime import datetime
from functools import lru_cache

from transformers import PreTrainedTokenizerBase

from tacit.models.internals import freeze_clock
from tacit.support.errors import TacitError, first_line

CLOCK = datetime(2024, 7, 26)  # what a template that asks for the date gets: the day that Llama 3.1's falls back to
MARK = "thetextofaninstruction"  # in place of one, to see what a template puts around it
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


def render_turns(tokenizer: PreTrainedTokenizerBase, turns: list[dict[str, str]], **options) -> str:
    """The text of a conversation in the tokenizer's chat format (special tokens as text).

    Templates that write today's date (Llama 3's) get ``CLOCK`` instead, so that prompts do not change with the clock.
    Raises TacitError where the template fails.
    """
    try:
        if "strftime_now" in (template := tokenizer.get_chat_template()):
            freeze_clock(template, CLOCK)
        return tokenizer.apply_chat_template(turns, tokenize=False, **options)
    except Exception as error:  # a template raises what it likes, and transformers for one that is missing
        raise TacitError(
            f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} fails: {first_line(error)}"
        ) from None


def render_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> str:
    """The text of a single-turn prompt, up to where the response begins (special tokens as text).

    Templates that let a model think first (Qwen3's) are told not to, as CoDIT's released scripts do; others ignore it.
    Raises TacitError where the template fails, or loses words of the instruction.
    """
    turns = [{"role": "user", "content": instruction}]
    text = render_turns(tokenizer, turns, add_generation_prompt=True, enable_thinking=False)
    if instruction.strip() not in text:  # escaped or reformatted, perhaps
        place, shown = 0, text.casefold()
        for word in re.findall(r"\w+", instruction):
            if (place := shown.find(word.casefold(), place)) < 0:
                raise TacitError(
                    f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} loses the instruction: the "
                    f"prompt for {instruction!r:.60} has no {word!r:.40}; give a template for a text as its content"
                )
    return text


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise TacitError unless the chat template renders texts (a long one, one with marks) whole, and twice alike."""
    for probe in (
        "Name three rivers.",
        " ".join(f"w{i}" for i in range(500)),
        'Two\n\nlines: <a href="b">{{ c }}</a> 7',
    ):
        if render_prompt(tokenizer, probe) != render_prompt(tokenizer, probe):
            raise TacitError(
                f"the chat template of {tokenizer.name_or_path or 'the tokenizer'} renders one text in two ways: "
                "prompts would change from run to run; take what is random out of it"
            )


def special_texts(tokenizer: PreTrainedTokenizerBase) -> list[str]:
    """The texts that the tokenizer reads as special tokens, the longest first."""
    return _special_texts(tokenizer, len(tokenizer), tuple(tokenizer.all_special_tokens))


@lru_cache(maxsize=8)  # some tokenizers have thousands
def _special_texts(tokenizer: PreTrainedTokenizerBase, n_tokens: int, special: tuple[str, ...]) -> list[str]:
    added = (token.content for token in tokenizer.added_tokens_decoder.values() if token.special)
    return sorted({*special, *added} - {""}, key=len, reverse=True)


def encode_text(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Token ids of a text of the data. What looks like a special token in it is read as plain characters.

    Raises TacitError where the tokenizer makes a special token of it all the same.
    """
    ids = tokenizer(text, add_special_tokens=False, split_special_tokens=True)["input_ids"]
    found = [token for token in special_texts(tokenizer) if token in text]
    if found and not {*tokenizer.convert_tokens_to_ids(found)}.isdisjoint(ids):
        raise TacitError(
            f"a text holds {found[0]!r}, which this tokenizer cannot read as plain characters: leave it out"
        )
    return ids


def encode_prompt(tokenizer: PreTrainedTokenizerBase, instruction: str) -> list[int]:
    """Token ids of ``render_prompt``: rendered first, then tokenized without adding special tokens again.

    Special tokens are the template's alone: one that the instruction spells is read as plain characters, with those
    around it up to the template's next special tokens. Raises TacitError as ``render_prompt`` and ``encode_text`` do.
    """
    text = render_prompt(tokenizer, instruction)
    special = [token for token in special_texts(tokenizer) if token in instruction]
    if not special:
        return tokenizer(text, add_special_tokens=False)["input_ids"]
    frame = render_prompt(tokenizer, MARK)
    before, _, after = frame.partition(MARK)
    shown = text.startswith(before) and text.endswith(after)
    # Pieces around special tokens are tokenized alone, which some tokenizers (with a dummy prefix, say) do otherwise.
    if not shown or _pieces(tokenizer, before, MARK, after) != tokenizer(frame, add_special_tokens=False)["input_ids"]:
        raise TacitError(
            f"an instruction holds {special[0]!r}, which cannot be read as plain characters in this chat format: leave "
            "it out"
        )
    return _pieces(tokenizer, before, text[len(before) : len(text) - len(after)], after)


def _pieces(tokenizer: PreTrainedTokenizerBase, before: str, inside: str, after: str) -> list[int]:
    """Token ids of a prompt in which ``before`` and ``after`` may hold special tokens, and ``inside`` may not."""
    pattern = re.compile(f"({'|'.join(map(re.escape, special_texts(tokenizer)))})")
    head, tail = pattern.split(before), pattern.split(after)  # texts and, at odd places, special tokens
    ids: list[int] = []
    for place, part in enumerate([*head[:-1], head[-1] + inside + tail[0], *tail[1:]]):
        ids += [tokenizer.convert_tokens_to_ids(part)] if place % 2 else encode_text(tokenizer, part) if part else []
    return ids
