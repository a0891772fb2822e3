"""Checks before a long run: parameters, models, datasets, pairs, judges, disk and GPU memory. Loads no weights and runs nothing."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import datasets
import torch
from huggingface_hub import HfApi, constants, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError
from transformers import AutoConfig

from tacit.data.sources import HUB_ID, SOURCES, SUFFIXES, split_source
from tacit.models.loading import load_tokenizer, locate, split_revision
from tacit.models.memory import BYTES, Phase, Size, count_parameters
from tacit.models.pairs import check_vocabularies, check_widths
from tacit.running import runner
from tacit.running.needs import ANNOTATOR, Values, find_models, memory_needed, tuned_models
from tacit.running.parameters import notebook_parameters, read_params
from tacit.scoring.alpacaeval import find_annotator
from tacit.scoring.judges import verdict_tokens
from tacit.support import paths
from tacit.support.errors import TacitError

GB = 1e9
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json", "vocab.txt")
DATA = (*SUFFIXES, ".gz", ".zst", ".zip", ".arrow")
Find = Callable[[str], Path | None]  # a file's name in a checkpoint -> where it lies


class Check(NamedTuple):
    """One finding: ``level`` is ok, warning or fault; ``what`` was looked at; ``text`` says what is so, and what to do."""

    level: str
    what: str
    text: str


class Stock(NamedTuple):
    """Where a model or dataset is: the check, whether it can be read now, and how many bytes are still to come."""

    check: Check
    reachable: bool
    download: int = 0


def missing_file(find: Find) -> str | None:
    """The first file that a checkpoint lacks for ``load_model`` (safetensors, with all shards) and its tokenizer, or None."""
    if find("config.json") is None:
        return "config.json"
    index = find("model.safetensors.index.json")
    if index is not None:
        shards = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        absent = [name for name in shards if find(name) is None]
    else:
        absent = [name for name in ["model.safetensors"] if find(name) is None]
    if not absent and all(find(name) is None for name in TOKENIZERS):
        absent = ["tokenizer.json"]
    return absent[0] if absent else None


def in_folder(folder: Path) -> Find:
    """Finds the files of a local checkpoint."""
    return lambda name: folder / name if (folder / name).is_file() else None


def in_cache(name: str, revision: str | None, *, repo_type: str = "model") -> Find:
    """Finds the files of a hub repository that lie in the hub's cache, without asking the hub."""

    def find(file: str) -> Path | None:
        found = try_to_load_from_cache(name, file, revision=revision, repo_type=repo_type)
        return Path(found) if isinstance(found, str) else None

    return find


def _gb(n: float) -> str:
    return f"{n / GB:.1f} GB" if n >= 0.05 * GB else f"{n / 1e6:.1f} MB"


def ask_hub(what: str, name: str, revision: str | None, *, repo_type: str, wanted: Callable[[str], bool]) -> Stock:
    """Can this repository be downloaded, and how large are the files that are ``wanted``? Asks for access where it is gated."""
    api = HfApi()
    page = f"https://huggingface.co/{'datasets/' if repo_type == 'dataset' else ''}{name}"
    ask = api.dataset_info if repo_type == "dataset" else api.model_info
    try:
        info = ask(name, revision=revision, files_metadata=True)
        if info.gated:
            api.auth_check(name, repo_type=repo_type)
    except GatedRepoError:
        text = f"gated, and this account has no access: accept its licence at {page}, then run `hf auth login`"
        return Stock(Check("fault", what, text), False)
    except RepositoryNotFoundError:
        return Stock(
            Check("fault", what, f"not on the hub: check the id at {page}; if private, `hf auth login`"), False
        )
    except Exception as error:  # offline, no such revision, a server's error: many kinds
        reason = f"{type(error).__name__}: {(str(error) or 'no message').splitlines()[0]:.80}"
        text = f"not in the cache, and the hub could not be asked for it ({reason}): check revision and network (HF_HUB_OFFLINE)"
        return Stock(Check("fault", what, text), False)
    files = {file.rfilename: file.size or 0 for file in info.siblings if wanted(file.rfilename)}
    if not files or (repo_type == "model" and not any(name.endswith(".safetensors") for name in files)):
        lacks = "safetensors, the only weights" if repo_type == "model" else "files"
        return Stock(Check("fault", what, f"{page} has no {lacks} that would be read here"), False)
    n = sum(files.values())
    return Stock(Check("ok", what, f"on the hub, {_gb(n)} to download"), True, n)


def check_model(role: str, name: str) -> Stock:
    """Is a model, a folder or a hub id with @revision, whole here, in the cache, or to be had from the hub?"""
    what = f"model {name}"
    try:
        place, revision = split_revision(name)
        source = locate(place)
    except TacitError as error:
        return Stock(Check("fault", what, f"{error} (parameter {role})"), False)
    if Path(source).is_dir():
        absent = missing_file(in_folder(Path(source)))
        text = f"{absent} is missing in that folder: copy or make the checkpoint again" if absent else "a whole folder"
        return Stock(Check("fault" if absent else "ok", what, text), absent is None)
    if HUB_ID.fullmatch(place) is None:
        text = f"neither a checkpoint's folder nor a hub id, owner/name@revision (parameter {role})"
        return Stock(Check("fault", what, text), False)
    if missing_file(in_cache(place, revision)) is None:
        return Stock(Check("ok", what, "whole in the hub's cache"), True)

    def wanted(
        file: str,
    ) -> bool:  # of the root: safetensors by transformers' naming, and configurations and tokenizers
        weights = file.startswith("model") and file.endswith(".safetensors")
        return "/" not in file and (weights or file.endswith((".json", ".model", ".txt", ".jinja")))

    return ask_hub(what, place, revision, repo_type="model", wanted=wanted)


def check_source(label: str, text: str) -> Stock:
    """Is a dataset of ``sources`` a local file, in the cache, or to be had from the hub? A download is counted three times: the
    files and ``datasets``' own copy, taken to be twice as large."""
    what = f"dataset {text}"
    try:
        kind, where, _ = split_source(text)
    except TacitError as error:
        return Stock(Check("fault", what, str(error)), False)
    if kind not in SOURCES and kind != "jsonl":
        known = ", ".join([*SOURCES, "jsonl"])
        return Stock(Check("fault", what, f"unknown source {kind!r} of {label!r}: choose one of {known}"), False)
    if paths.resolve(where).is_file():
        return Stock(Check("ok", what, "a local file"), True)
    hub = HUB_ID.fullmatch(where)
    if kind == "jsonl" or hub is None or where.endswith(SUFFIXES):
        return Stock(Check("fault", what, f"there is no file {where}, and it is no hub id either"), False)
    name, revision, file = hub["id"], hub["revision"], SOURCES[kind].file
    if file:
        cached = in_cache(name, revision, repo_type="dataset")(file) is not None
    else:  # datasets keeps a hub dataset under <owner>___<name>/<config>/<version>/<commit>
        kept = Path(datasets.config.HF_DATASETS_CACHE)
        cached = revision is not None and any(kept.glob(f"{name.split('/')[0]}___*/*/*/{revision}/dataset_info.json"))
    if cached:
        return Stock(Check("ok", what, "in the cache"), True)
    stock = ask_hub(what, name, revision, repo_type="dataset", wanted=lambda f: f == file if file else f.endswith(DATA))
    return stock._replace(download=3 * stock.download)


def read_size(role: str, name: str) -> Size:
    """A model's configuration (from its folder, the cache or the hub) and its number of parameters. Raises TacitError without one."""
    place, revision = split_revision(name)
    try:
        config = AutoConfig.from_pretrained(locate(place), revision=revision, trust_remote_code=False)
        return Size(config, count_parameters(config, encoder=role == "encoder"))
    except Exception as error:  # an architecture that transformers does not know, a damaged file
        reason = (str(error) or "no message").splitlines()[0]
        raise TacitError(f"its configuration makes no model here ({type(error).__name__}: {reason})") from error


def _tokenizer(name: str, **options):
    place, revision = split_revision(name)
    return load_tokenizer(place, revision=revision, **options)


def check_two(expert: str, amateur: str, sizes: Mapping[str, Size]) -> Check:
    """Can a pair score the same tokens? ``models.check_pair``'s rule, on tokenizers and configurations."""
    what = f"pair {expert}, {amateur}"
    try:
        ours = _tokenizer(expert)
        check_vocabularies(ours, _tokenizer(amateur, chat_template=ours.chat_template))
        check_widths(*(sizes[name].config.get_text_config(decoder=True).vocab_size for name in (expert, amateur)))
    except TacitError as error:
        return Check("fault", what, f"{error}; decoding from their contrast needs a model and its own base")
    return Check("ok", what, "one vocabulary, logits of one width")


def check_judge(judge: str, reachable: bool) -> Iterator[Check]:
    """Can the judge be asked? A local model by its template and tokens; an annotator of alpaca_eval as that package would look for it."""
    what = f"judge {judge}"
    if judge.startswith(ANNOTATOR):
        try:
            find_annotator(judge.removeprefix(ANNOTATOR))
            yield Check("ok", what, "its configuration and key are here (not tried: that would cost money)")
        except TacitError as error:
            yield Check("fault", what, str(error))
    elif reachable:
        try:
            verdict_tokens(_tokenizer(judge))
            yield Check("ok", what, "its chat template and verdicts suit")
        except TacitError as error:
            yield Check("fault", what, str(error))


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def check_disk(download: int, kept: int, *, unknown: int = 0) -> Iterator[Check]:
    """Is there room for downloads in the hub's cache and for tuned models in tacit's? Both count together on one file system.

    ``unknown`` models and datasets are out of reach and not counted.
    """
    needs: dict[int, list] = {}
    for folder, n, name in (
        (Path(constants.HF_HUB_CACHE), download, "downloads"),
        (paths.cache_root(), kept, "tuned models"),
    ):
        place = _existing(folder)
        row = needs.setdefault(place.stat().st_dev, [place, 0, []])
        row[1] += n
        row[2].append(f"{_gb(n)} of {name} in {folder}")
    for place, n, parts in needs.values():
        free = shutil.disk_usage(place).free
        text = f"{' and '.join(parts)}; {_gb(free)} free"
        text += f" (without {unknown} models and datasets that are out of reach)" if unknown else ""
        if n > free:
            text += ": free some space, or set HF_HOME and TACIT_CACHE to folders on a larger disk"
        yield Check("fault" if n > free else "ok", "disk", text)


def describe(phases: Sequence[Phase]) -> str:
    """What each phase takes, in words; the papers' profiles say it in their comments."""
    return "; ".join(f"{p.what} {_gb(p.fixed)}" + (f" and {_gb(p.row)} a row" if p.row else "") for p in phases)


def check_memory(notebook: str, values: Values, sizes: Mapping[str, Size]) -> Check:
    """Does the largest of a notebook's phases, with one row, fit on the GPU?"""
    what, phases = f"GPU memory, {notebook}", memory_needed(values, sizes)
    if not find_models(values):
        return Check("ok", what, "it loads no models")
    if not phases:
        return Check("warning", what, "not known: no configuration of its models could be read")
    largest = max(phases, key=lambda phase: phase.fixed + phase.row)
    n = largest.fixed + largest.row
    text = describe(phases)
    if not torch.cuda.is_available():
        if n < 2 * GB:
            return Check("ok", what, f"no CUDA device here; a CPU will do: {text}")
        return Check("warning", what, f"no CUDA device here: needs {_gb(n)} ({text})")
    free, total = torch.cuda.mem_get_info()
    if n > total:
        text += f": the GPU has {_gb(total)}; take a larger one, a smaller model, or weights in bfloat16 (dtype, student_dtype)"
        return Check("fault", what, text)
    if n > free:
        return Check(
            "warning", what, f"{text}: of {_gb(total)} only {_gb(free)} are free now; end what else is running"
        )
    return Check("ok", what, f"{text}; of {_gb(total)}")


def check_parameters(
    names: Sequence[str], *, profile: str, overrides: dict[str, str]
) -> tuple[list[Check], dict[str, dict[str, Any]]]:
    """Each notebook's check by ``runner.plan``, and the complete parameters of those that passed, by notebook.

    Raises TacitError for an unknown profile or notebook, and for an override that no chosen notebook has.
    """
    checks, planned = [], {}
    if not (paths.PARAMS / profile).is_dir():
        read_params(profile, "")  # says which profiles there are
    chosen = runner.choose_notebooks(names, profile=profile)
    declared = {path: notebook_parameters(path) for path in chosen}
    runner.refuse_unknown(overrides, {name for own in declared.values() for name in own})
    for path in chosen:
        own = {name: text for name, text in overrides.items() if name in declared[path]}
        try:
            [(_, planned[path.stem])] = runner.plan([path], profile=profile, overrides=own)
            checks.append(
                Check("ok", f"parameters, {path.stem}", f"{len(declared[path])}, complete and of their types")
            )
        except TacitError as error:
            checks.append(Check("fault", f"parameters, {path.stem}", str(error)))
    return checks, planned


def check_profile(names: Sequence[str], *, profile: str, overrides: dict[str, str]) -> Iterator[Check]:
    """Every check of a profile's notebooks, as soon as it is made; each model and dataset once.

    Small files (configurations, tokenizers) are downloaded where the hub is reachable. What a fault hides is left out: a model that
    is not to be had has no memory. Raises TacitError as ``check_parameters`` does.
    """
    checks, planned = check_parameters(names, profile=profile, overrides=overrides)
    yield from checks
    everything: list[Values] = list(planned.values())
    stocks: dict[str, Stock] = {}
    sizes: dict[str, Size] = {}
    for role, name in (pair for values in everything for pair in find_models(values)):
        if name in stocks:
            continue
        stock = stocks[name] = check_model(role, name)
        yield stock.check
        if stock.reachable:
            try:
                sizes[name] = read_size(role, name)
            except TacitError as error:
                yield Check("fault", f"model {name}", str(error))
    for label, text in (pair for values in everything for pair in values.get("sources", {}).items()):
        if text not in stocks:
            stocks[text] = check_source(label, text)
            yield stocks[text].check
    for world in dict.fromkeys(values["world"] for values in everything if values.get("world")):
        there = paths.resolve(world).is_file()
        yield Check(
            *(("ok", f"world {world}", "a file") if there else ("fault", f"world {world}", "there is no such file"))
        )
    named = [dict(reversed(find_models(values))) for values in everything]
    pairs = [(models.get("expert"), models.get("amateur", models.get("base"))) for models in named]
    for pair in dict.fromkeys(pairs):
        if all(name in sizes for name in pair):
            yield check_two(*pair, sizes)
    for judge in dict.fromkeys(values["judge"] for values in everything if values.get("judge")):
        yield from check_judge(judge, judge in stocks and stocks[judge].reachable)
    kept = set().union(*map(tuned_models, everything))
    of_kept = sum(sizes[model].parameters * BYTES[dtype] for model, *_, dtype in kept if model in sizes)
    unknown = sum(not stock.reachable for stock in stocks.values())
    yield from check_disk(sum(stock.download for stock in stocks.values()), of_kept, unknown=unknown)
    for notebook, values in planned.items():
        yield check_memory(notebook, values, sizes)


def report(checks: Iterator[Check], *, say: Callable[[str], None] = print) -> int:
    """Print one line per check and a last one that counts them; returns the number of faults."""
    counts = {"ok": 0, "warning": 0, "fault": 0}
    for check in checks:
        counts[check.level] += 1
        say(f"{check.level:8} {check.what}: {check.text}")
    say(f"{counts['fault']} faults, {counts['warning']} warnings")
    return counts["fault"]
