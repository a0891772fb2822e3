"""What identifies a checkpoint or a tokenizer, whatever it is called."""

from __future__ import annotations

from transformers import PreTrainedTokenizerBase

from tacit.models.loading import load_config, model_folder
from tacit.support import provenance
from tacit.support.keyed import fingerprint


def weights_key(name: str, revision: str | None = None) -> dict:
    """What identifies a checkpoint: the hash of its folder, or its hub id and the commit that it resolves to.

    Raises TacitError as ``model_folder`` does; transformers' own OSError or ValueError for a hub id whose configuration
    does not load.
    """
    folder = model_folder(name)
    if folder is not None:
        return {"weights": provenance.tree_hash(folder)}
    config = load_config(name, revision=revision)
    return {"name": name, "commit": getattr(config, "_commit_hash", None) or revision}


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """SHA-256 of a tokenizer: vocabulary, merges, normaliser, special tokens and chat template."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else sorted(tokenizer.get_vocab().items())
    return fingerprint([rules, sorted(map(str, tokenizer.special_tokens_map.items())), tokenizer.chat_template])
