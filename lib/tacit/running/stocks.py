"""Where models and datasets are: here, in the hub's cache, or on the hub, and how large their downloads would be."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import datasets
from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, OfflineModeIsEnabled, RepositoryNotFoundError

from tacit.data.sources import HUB_ID, SOURCES, SUFFIXES, split_source
from tacit.models.gguf import gguf_options
from tacit.models.loading import locate, split_revision
from tacit.support import paths
from tacit.support.errors import TacitError, first_line

GB = 1e9
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
DATA = (*SUFFIXES, ".gz", ".zst", ".zip", ".arrow")
Find = Callable[[str], Path | None]  # a file's name in a checkpoint -> where it lies


class Check(NamedTuple):
    """``what`` was looked at; ``level`` is ok, warning or fault; ``text`` says what is so, and what to do."""

    level: str
    what: str
    text: str


class Stock(NamedTuple):
    """Where a model or dataset is: the check, whether it can be read now, and how many bytes are still to come."""

    check: Check
    reachable: bool
    download: int = 0


def missing_file(find: Find) -> str | None:
    """The first file that a checkpoint lacks for ``load_model`` (safetensors, all shards) or its tokenizer."""
    index = find("model.safetensors.index.json")
    weights = ["model.safetensors"]
    if index is not None:
        weights = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
    tokenizer = next((name for name in TOKENIZERS if find(name)), TOKENIZERS[0])
    return next((name for name in ["config.json", *weights, tokenizer] if find(name) is None), None)


def in_folder(folder: Path) -> Find:
    """Finds the files of a local checkpoint."""
    return lambda name: folder / name if (folder / name).is_file() else None


def in_cache(name: str, revision: str | None, *, repo_type: str = "model") -> Find:
    """Finds the files of a hub repository that lie in the hub's cache, without asking the hub."""

    def find(file: str) -> Path | None:
        place = try_to_load_from_cache(name, file, revision=revision, repo_type=repo_type)
        return Path(place) if isinstance(place, str) else None

    return find


def in_gb(n: float) -> str:
    """Bytes in words: GB, or MB where they are few."""
    return f"{n / GB:.1f} GB" if n >= 0.05 * GB else f"{n / 1e6:.1f} MB"


def _fault(what: str, text: str) -> Stock:
    return Stock(Check("fault", what, text), False)


def ask_hub(what: str, name: str, revision: str | None, *, repo_type: str, wanted: Callable[[str], bool]) -> Stock:
    """Can this repository be downloaded, and how large are the ``wanted`` files? Asks for access where it is gated."""
    api = HfApi()
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{name}"
    ask = api.dataset_info if repo_type == "dataset" else api.model_info
    try:
        info = ask(name, revision=revision, files_metadata=True)
        if info.gated:
            api.auth_check(name, repo_type=repo_type)
    except GatedRepoError:
        licence = f"accept its licence at {page}, then run `hf auth login`"
        return _fault(what, f"gated, and this account has no access: {licence}")
    except RepositoryNotFoundError:
        return _fault(what, f"not on the hub: check the id at {page}; if private, `hf auth login`")
    except OfflineModeIsEnabled:
        hint = "unset it to download, or bring a cache (HF_HOME)"
        return _fault(what, f"not in the cache, and HF_HUB_OFFLINE is set: {hint}")
    except Exception as error:  # no network, no such revision, a server's error: many kinds
        reason = f"{type(error).__name__}: {first_line(error):.80}"
        hint = "check revision and network (HF_HUB_OFFLINE)"
        return _fault(what, f"not in the cache, and the hub could not be asked for it ({reason}): {hint}")
    files = {file.rfilename: file.size or 0 for file in info.siblings if wanted(file.rfilename)}
    if not files or (repo_type == "model" and not any(name.endswith(".safetensors") for name in files)):
        lacks = "safetensors, the only weights" if repo_type == "model" else "files"
        return _fault(what, f"{page} has no {lacks} that would be read here")
    n = sum(files.values())
    return Stock(Check("ok", what, f"on the hub, {in_gb(n)} to download"), True, n)


def _of_model(file: str) -> bool:
    """Is a file of a model downloaded: safetensors by transformers' naming, configurations, tokenizers, no folders?"""
    weights = file.startswith("model") and file.endswith(".safetensors")
    return "/" not in file and (weights or file.endswith((".json", ".model", ".txt", ".jinja")))


def check_model(role: str, name: str) -> Stock:
    """Is a model, a folder or a hub id with @revision, whole here, in the cache, or to be had from the hub?"""
    what = f"model {name}"
    try:
        place, revision = split_revision(name)
        source = locate(place)
        packed = gguf_options(source)
    except TacitError as error:
        return _fault(what, f"{error} (parameter {role})")
    if Path(source).is_dir():
        absent = None if packed else missing_file(in_folder(Path(source)))
        if absent:
            return _fault(what, f"{absent} is missing in that folder: copy or make the checkpoint again")
        return Stock(Check("ok", what, "a whole folder"), True)
    if HUB_ID.fullmatch(place) is None:
        return _fault(what, f"neither a checkpoint's folder nor a hub id, owner/name@revision (parameter {role})")
    if missing_file(in_cache(place, revision)) is None:
        return Stock(Check("ok", what, "whole in the hub's cache"), True)
    return ask_hub(what, place, revision, repo_type="model", wanted=_of_model)


def check_source(label: str, text: str) -> Stock:
    """Is a dataset of ``sources`` a local file, in the cache, or to be had from the hub?

    A download is counted three times: the files, and the copy of ``datasets``, which is taken to be twice as large.
    """
    what = f"dataset {text}"
    try:
        kind, where, _ = split_source(text)
    except TacitError as error:
        return _fault(what, str(error))
    if kind not in SOURCES and kind != "jsonl":
        return _fault(what, f"unknown source {kind!r} of {label!r}: choose one of {', '.join([*SOURCES, 'jsonl'])}")
    if paths.resolve(where).is_file():
        return Stock(Check("ok", what, "a local file"), True)
    hub = HUB_ID.fullmatch(where)
    if kind == "jsonl" or hub is None or where.endswith(SUFFIXES):
        return _fault(what, f"there is no file {where}, and it is no hub id either")
    name, revision, file = hub["id"], hub["revision"], SOURCES[kind].file
    if file:
        cached = in_cache(name, revision, repo_type="dataset")(file) is not None
    else:  # datasets keeps a hub dataset under <owner>___<name>/<config>/<version>/<commit>
        copies = Path(datasets.config.HF_DATASETS_CACHE)
        cached = revision is not None and any(copies.glob(f"{name.split('/')[0]}___*/*/*/{revision}/dataset_info.json"))
    if cached:
        return Stock(Check("ok", what, "in the cache"), True)
    stock = ask_hub(what, name, revision, repo_type="dataset", wanted=lambda f: f == file if file else f.endswith(DATA))
    return stock._replace(download=3 * stock.download)
