"""Expert-amateur pairs: loaded together, and checked to score the same tokens."""

from __future__ import annotations

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tacit.models.loading import load_model, load_tokenizer
from tacit.support.errors import TacitError


def check_vocabularies(expert_tokenizer: PreTrainedTokenizerBase, amateur_tokenizer: PreTrainedTokenizerBase) -> None:
    """Raise TacitError, naming the first difference, unless two tokenizers share their vocabulary and beginning."""
    a, b = expert_tokenizer.get_vocab(), amateur_tokenizer.get_vocab()
    for token, index in sorted(a.items(), key=lambda pair: pair[1]):
        if b.get(token) != index:
            other = "is missing" if token not in b else f"has id {b[token]}"
            difference = f"token {token!r} has id {index} in the expert and {other} in the amateur"
            raise TacitError(f"the pair's vocabularies differ: {difference}")
    extra = sorted(set(b) - set(a), key=b.get)
    if extra:
        difference = f"token {extra[0]!r} (id {b[extra[0]]}) is only in the amateur"
        raise TacitError(f"the pair's vocabularies differ: {difference}")
    left, right = expert_tokenizer.bos_token_id, amateur_tokenizer.bos_token_id
    if left != right:
        difference = f"bos_token_id is {left} in the expert and {right} in the amateur"
        raise TacitError(f"the pair's special tokens differ: {difference}")


def check_widths(expert: int, amateur: int) -> None:
    """Raise TacitError unless two models' logits are of one width."""
    if expert != amateur:
        raise TacitError(f"the pair's logits differ in width: {expert} in the expert, {amateur} in the amateur")


def check_pair(
    expert: PreTrainedModel,
    amateur: PreTrainedModel,
    expert_tokenizer: PreTrainedTokenizerBase,
    amateur_tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Raise TacitError, naming the first difference, unless two models can score the same tokens.

    They need the same vocabulary, the same beginning of a sequence and logits of the same width. Their ends may differ,
    as those of a base model and its chat model often do: the expert's counts.
    """
    check_vocabularies(expert_tokenizer, amateur_tokenizer)
    check_widths(*(m.get_output_embeddings().weight.shape[0] for m in (expert, amateur)))


def load_pair(
    expert: str,
    amateur: str,
    *,
    expert_revision: str | None = None,
    amateur_revision: str | None = None,
    dtype: str = "float32",
    chat_template: str | None = None,
) -> tuple[PreTrainedModel, PreTrainedModel, PreTrainedTokenizerBase]:
    """Load an expert, its amateur and the expert's tokenizer, checked by ``check_pair``.

    Both get the same prompt, in the expert's chat format (or ``chat_template``); the amateur's tokenizer is only
    compared. Raises TacitError as ``load_model``, ``load_tokenizer`` and ``check_pair`` do.
    """
    tokenizer = load_tokenizer(expert, revision=expert_revision, chat_template=chat_template)
    other = load_tokenizer(amateur, revision=amateur_revision, chat_template=tokenizer.chat_template)
    models = [
        load_model(name, revision=revision, dtype=dtype)
        for name, revision in ((expert, expert_revision), (amateur, amateur_revision))
    ]
    check_pair(models[0], models[1], tokenizer, other)
    return models[0], models[1], tokenizer
