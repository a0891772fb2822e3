"""The micro world's tokenizer: byte-level BPE trained on the corpus, with the papers' chat template."""

from __future__ import annotations

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from tacit.models.chat import tulu_template

BOS, EOS, PAD = "<s>", "</s>", "<pad>"


def train_tokenizer(
    documents: Iterable[str], *, vocabulary_size: int = 2048, context: int = 512
) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE with single digits on ``documents``; any text round-trips through it.

    It adds no special tokens by itself: the chat template and the corpus packing place them.
    """
    digits = pre_tokenizers.Digits(individual_digits=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([digits, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    tokenizer.decoder = decoders.ByteLevel()
    options = {"vocab_size": vocabulary_size, "special_tokens": [BOS, EOS, PAD], "show_progress": False}
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer.train_from_iterator(documents, trainers.BpeTrainer(initial_alphabet=alphabet, **options))
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token=BOS, eos_token=EOS, pad_token=PAD, model_max_length=context,
        padding_side="left", chat_template=tulu_template(), clean_up_tokenization_spaces=False,
    )  # fmt: skip
