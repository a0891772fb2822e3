"""Loading causal language models and their tokenizers, from folders and from the hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from math import inf
from pathlib import Path

import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    GgufConfig,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging

from tacit.models.chat import check_template
from tacit.models.gguf import find_gguf, gguf_options
from tacit.support import paths
from tacit.support.errors import TacitError, first_line

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16, "auto": "auto"}


@contextmanager
def without_progress_bars() -> Iterator[None]:
    """Keep transformers' progress bars out of what is printed here (executed notebooks show them badly)."""
    enabled = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if enabled:
            logging.enable_progress_bar()


def locate(name: str) -> str:
    """A checkpoint's folder, absolute, if ``name`` is one (``paths.resolve``), else a hub id.

    A folder is a checkpoint by its ``config.json``, or by one GGUF file. Raises TacitError for what looks like a path
    and is no checkpoint.
    """
    folder = paths.resolve(name)
    if (folder / "config.json").is_file() or find_gguf(folder) is not None:
        return str(folder)
    if folder.exists() or name.startswith((".", "/", "outputs/")) or name.count("/") > 1:
        remedy = "check the path (the micro models are in outputs/models, as committed)"
        if Path(name).parts[:2] == (".cache", "models"):
            remedy = f"make it, for example by python -m tacit fetch {folder.name}"
        what = "no config.json and no GGUF file"
        raise TacitError(f"no checkpoint at {name}: there is {what} in {paths.searched(name)}; {remedy}")
    return name


def _explain(name: str, error: Exception) -> TacitError:
    return TacitError(f"cannot load {name}: {type(error).__name__}: {first_line(error)}")


def load_config(name: str, *, revision: str | None = None) -> PreTrainedConfig:
    """A checkpoint's configuration, from a folder or the hub; no weights are read.

    Raises TacitError as ``locate`` and ``gguf.check_gguf`` do, and transformers' OSError or ValueError for a
    configuration that does not load.
    """
    source = locate(name)
    return AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False, **gguf_options(source))


def load_model(
    name: str, *, revision: str | None = None, dtype: str = "float32", device: str | None = None
) -> PreTrainedModel:
    """Load a causal language model for evaluation from a folder or the hub.

    ``dtype`` is ``float32``, ``bfloat16``, ``float16``, or ``auto`` (as saved); ``device`` defaults to CUDA when there
    is one. Reads safetensors, or a GGUF file, whose weights are dequantized; never runs a repository's code. Raises
    TacitError when the checkpoint is missing, incomplete or corrupt.
    """
    if dtype not in DTYPES:
        raise TacitError(f"unknown dtype {dtype!r}: choose one of {', '.join(DTYPES)}")
    source = locate(name)
    packed = gguf_options(source)
    unpack = {"quantization_config": GgufConfig(dequantize=True)} if packed else {}
    try:
        with without_progress_bars():
            model, report = AutoModelForCausalLM.from_pretrained(
                source,
                revision=revision,
                dtype=DTYPES[dtype],
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                **packed,
                **unpack,
            )
    except Exception as error:  # from_pretrained raises a dozen kinds, all of them about this checkpoint
        raise _explain(name, error) from error
    missing = sorted(report["missing_keys"])
    if missing:
        others = f"{missing[0]} and {len(missing) - 1} more"
        raise TacitError(f"checkpoint {name} is incomplete: it has no weights for {others}")
    if packed:
        model = _rebuild(model)
    return model.to(device or ("cuda" if torch.cuda.is_available() else "cpu")).eval()


def _rebuild(model: PreTrainedModel) -> PreTrainedModel:
    """A model with the same weights that can be tuned and saved, which transformers refuses one from a GGUF file."""
    fresh = AutoModelForCausalLM.from_config(model.config, dtype=model.dtype)
    fresh.load_state_dict(model.state_dict())
    fresh.generation_config = model.generation_config
    fresh.name_or_path = model.name_or_path
    return fresh


def split_revision(name: str) -> tuple[str, str | None]:
    """The hub id and the revision of ``owner/name@revision``. A folder, and an id without one, have None.

    Raises TacitError as ``locate`` does. It does not ask the hub.
    """
    if model_folder(name) is not None:
        return name, None
    owner, _, revision = name.partition("@")
    return owner, revision or None


def load_tokenizer(
    name: str, *, revision: str | None = None, chat_template: str | None = None
) -> PreTrainedTokenizerBase:
    """Load a tokenizer for batched decoding: left padding, a pad token (else its end token), and a chat template.

    The end token is also the pad token where the tokenizer's own lies beyond the model's embedding. A given
    ``chat_template`` replaces the tokenizer's own. Raises TacitError where it has none, or no end token, and as
    ``chat.check_template`` does.
    """
    source = locate(name)
    options = {"revision": revision, "trust_remote_code": False, **gguf_options(source)}
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
        config = AutoConfig.from_pretrained(source, **options)
    except Exception as error:
        if Path(source).is_dir() and not any(Path(source).glob("*token*")):
            missing = "it has no tokenizer.json and no tokenizer_config.json"
            raise TacitError(f"cannot load the tokenizer of {name}: {missing}") from error
        raise _explain(name, error) from error
    if tokenizer.eos_token_id is None:
        raise TacitError(f"the tokenizer of {name} has no end-of-sequence token")
    n_ids = getattr(config.get_text_config(decoder=True), "vocab_size", inf)
    if tokenizer.pad_token is None or tokenizer.pad_token_id >= n_ids:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "left"
    if chat_template is not None:
        tokenizer.chat_template = chat_template
    if tokenizer.chat_template is None:
        remedy = "give one (tacit.models.chat.tulu_template() is the papers')"
        raise TacitError(f"the tokenizer of {name} has no chat template: {remedy}")
    if isinstance(tokenizer.chat_template, str):  # a byte order mark of its file would stand before every prompt
        tokenizer.chat_template = tokenizer.chat_template.removeprefix("\ufeff")
    check_template(tokenizer)
    return tokenizer


def model_folder(name: str) -> Path | None:
    """The local folder of a checkpoint, or None for a hub id. Raises TacitError as ``locate`` does."""
    source = Path(locate(name))
    return source if source.is_dir() else None
