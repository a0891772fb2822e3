"""Checks before a long run: parameters, models, datasets, pairs, judges, disk and GPU memory. Loads no weights."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from huggingface_hub import constants

from tacit.models.loading import load_config, load_tokenizer, split_revision
from tacit.models.memory import BYTES, Phase, Size, count_parameters
from tacit.models.pairs import check_vocabularies, check_widths
from tacit.running.needs import (
    ANNOTATOR,
    Needs,
    Values,
    find_models,
    find_pairs,
    memory_needed,
    read_needs,
    tuned_models,
)
from tacit.running.parameters import read_params
from tacit.running.plan import choose_notebooks, plan_runs
from tacit.running.stocks import GB, Check, Stock, check_model, check_source, in_gb
from tacit.scoring.alpacaeval import find_annotator
from tacit.scoring.judges import verdict_tokens
from tacit.support import paths
from tacit.support.errors import TacitError, first_line


def read_size(name: str, *, encoder: bool) -> Size:
    """A model's configuration (from its folder, the cache or the hub) and number of parameters, or TacitError."""
    place, revision = split_revision(name)
    try:
        config = load_config(place, revision=revision)
        return Size(config, count_parameters(config, encoder=encoder))
    except Exception as error:  # an architecture that transformers does not know, a damaged file
        reason = first_line(error)
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
    """Can the judge be asked? A model by its template and tokens, an annotator of alpaca_eval by its configuration."""
    annotator = judge.startswith(ANNOTATOR)
    try:
        if annotator:
            find_annotator(judge.removeprefix(ANNOTATOR))
        elif reachable:
            verdict_tokens(_tokenizer(judge))
        else:
            return  # the fault of the model hides it
    except TacitError as error:
        yield Check("fault", f"judge {judge}", str(error))
        return
    asked = "its configuration and key are here (not tried: that would cost money)"
    yield Check("ok", f"judge {judge}", asked if annotator else "its chat template and verdicts suit")


def _existing(folder: Path) -> Path:
    return next(place for place in (folder, *folder.absolute().parents) if place.exists())


def check_disk(download: int, tuned: int, *, unknown: int = 0) -> Iterator[Check]:
    """Is there room for downloads in the hub's cache and for tuned models in tacit's?

    Both count together on one file system; ``unknown`` models and datasets are out of reach and not counted.
    """
    disks: dict[int, list] = {}
    for folder, n, name in (
        (Path(constants.HF_HUB_CACHE), download, "downloads"),
        (paths.cache_root(), tuned, "tuned models"),
    ):
        place = _existing(folder)
        row = disks.setdefault(place.stat().st_dev, [place, 0, []])
        row[1] += n
        row[2].append(f"{in_gb(n)} of {name} in {folder}")
    for place, n, parts in disks.values():
        free = shutil.disk_usage(place).free
        text = f"{' and '.join(parts)}; {in_gb(free)} free"
        text += f" (without {unknown} models and datasets that are out of reach)" if unknown else ""
        if n > free:
            text += ": free some space, or set HF_HOME and TACIT_CACHE to folders on a larger disk"
        yield Check("fault" if n > free else "ok", "disk", text)


NOT_KNOWN = "not known: no configuration of its models could be read"


def describe(phases: Sequence[Phase]) -> str:
    """What each phase takes, in words; the papers' profiles say it in their comments."""
    return "; ".join(f"{p.what} {in_gb(p.fixed)}" + (f" and {in_gb(p.row)} a row" if p.row else "") for p in phases)


def check_memory(notebook: str, needs: Needs, values: Values, sizes: Mapping[str, Size]) -> Check:
    """Does the largest of a notebook's phases, with one row, fit on the GPU?"""
    what, phases = f"GPU memory, {notebook}", memory_needed(needs, values, sizes)
    if not find_models(needs, values):
        return Check("ok", what, "it loads no models")
    if not phases:
        return Check("warning", what, NOT_KNOWN)
    n = max(phase.fixed + phase.row for phase in phases)
    text = describe(phases)
    if not torch.cuda.is_available():
        if n < 2 * GB:
            return Check("ok", what, f"no CUDA device here; a CPU will do: {text}")
        return Check("warning", what, f"no CUDA device here: needs {in_gb(n)} ({text})")
    free, total = torch.cuda.mem_get_info()
    if n > total:
        smaller = "take a larger one, a smaller model, or weights in bfloat16 (dtype, student_dtype)"
        return Check("fault", what, f"{text}: the GPU has {in_gb(total)}; {smaller}")
    if n > free:
        busy = f"of {in_gb(total)} only {in_gb(free)} are free now; end what else is running"
        return Check("warning", what, f"{text}: {busy}")
    return Check("ok", what, f"{text}; of {in_gb(total)}")


class Planned(NamedTuple):
    """A notebook that could run: what it states that it needs, and its complete parameters."""

    needs: Needs
    values: Values


def check_parameters(
    names: Sequence[str], *, profile: str, overrides: dict[str, str]
) -> tuple[list[Check], dict[str, Planned]]:
    """Each notebook's check of its parameters, and those that passed, by notebook.

    Raises TacitError for an unknown profile, and as ``choose_notebooks`` does.
    """
    checks, planned = [], {}
    if not (paths.PARAMS / profile).is_dir():
        read_params(profile, "")  # says which profiles there are
    for path in choose_notebooks(names, profile=profile, overrides=overrides):
        what = f"parameters, {path.stem}"
        try:
            [(_, values)] = plan_runs([path], profile=profile, overrides=overrides)
            planned[path.stem] = Planned(read_needs(path), values)
            checks.append(Check("ok", what, f"{len(values)}, complete and of their types"))
        except TacitError as error:
            checks.append(Check("fault", what, str(error)))
    return checks, planned


def check_profile(names: Sequence[str], *, profile: str, overrides: dict[str, str]) -> Iterator[Check]:
    """Every check of a profile's notebooks, as soon as it is made; each model and dataset once.

    Small files (configurations, tokenizers) are downloaded where the hub is reachable. What a fault hides is left out:
    a model that is not to be had has no memory. Raises TacitError as ``check_parameters`` does.
    """
    checks, planned = check_parameters(names, profile=profile, overrides=overrides)
    yield from checks
    stocks: dict[str, Stock] = {}
    sizes: dict[str, Size] = {}
    for needs, values in planned.values():
        for parameter, name in find_models(needs, values):
            if name not in stocks:
                yield from _look_at_model(parameter, name, stocks, sizes, encoder=needs.loads[parameter] == "encoder")
    for label, text in (pair for sources in _of_kind("datasets", planned) for pair in sources.items()):
        if text not in stocks:
            stocks[text] = check_source(label, text)
            yield stocks[text].check
    for world in dict.fromkeys(_of_kind("world", planned)):
        there = paths.resolve(world).is_file()
        yield Check("ok" if there else "fault", f"world {world}", "a file" if there else "there is no such file")
    pairs = [pair for needs, values in planned.values() for pair in find_pairs(needs, values)]
    yield from (check_two(*pair, sizes) for pair in dict.fromkeys(pairs) if all(name in sizes for name in pair))
    for judge in dict.fromkeys(_of_kind("judge", planned)):
        yield from check_judge(judge, judge in stocks and stocks[judge].reachable)
    tuned = {key for needs, values in planned.values() for key in tuned_models(needs, values)}
    of_tuned = sum(sizes[model].parameters * BYTES[dtype] for model, *_, dtype in tuned if model in sizes)
    unknown = sum(not stock.reachable for stock in stocks.values())
    yield from check_disk(sum(stock.download for stock in stocks.values()), of_tuned, unknown=unknown)
    memory = {notebook: check_memory(notebook, *of, sizes) for notebook, of in planned.items()}
    dark = [notebook for notebook, found in memory.items() if found.text == NOT_KNOWN]  # out of the hub's reach: all
    yield from (found for notebook, found in memory.items() if notebook not in dark)
    if dark:
        yield Check("warning", f"GPU memory, {', '.join(dark)}", NOT_KNOWN)
    yield from tell_ready({notebook: _find_lacking(*of, stocks) for notebook, of in planned.items()})


def _find_lacking(needs: Needs, values: Values, stocks: Mapping[str, Stock]) -> list[str]:
    """The models and datasets of one notebook that cannot be read now."""
    sources = (text for _, of_kind in needs.of_kind("datasets", values) for text in of_kind.values())
    named = dict.fromkeys([*(name for _, name in find_models(needs, values)), *sources])
    return [name for name in named if name in stocks and not stocks[name].reachable]


def tell_ready(lacking: Mapping[str, Sequence[str]]) -> Iterator[Check]:
    """Which notebooks have all their models and datasets here, and what the others lack; notes, which count as nothing.

    Notebooks that lack more than two things share a line, which does not name them: the checks have.
    """
    ready = [notebook for notebook, names in lacking.items() if not names]
    yield Check("note", "models and datasets are here for", ", ".join(ready) or "no notebook")
    groups: dict[str, list[str]] = {}
    for notebook, names in lacking.items():
        if names:
            what = ", ".join(names) if len(names) < 3 else "three or more of the above"
            groups.setdefault(what, []).append(notebook)
    for what, notebooks in groups.items():
        yield Check("note", f"lacking {what}", ", ".join(notebooks))


def _of_kind(kind: str, planned: Mapping[str, Planned]) -> list[Any]:
    """The values of the parameters of one kind, over the notebooks."""
    return [value for needs, values in planned.values() for _, value in needs.of_kind(kind, values)]


def _look_at_model(
    parameter: str, name: str, stocks: dict[str, Stock], sizes: dict[str, Size], *, encoder: bool
) -> Iterator[Check]:
    """The checks of one model, which is entered into ``stocks`` and, where its configuration can be read, ``sizes``."""
    stock = stocks[name] = check_model(parameter, name)
    yield stock.check
    if stock.reachable:
        try:
            sizes[name] = read_size(name, encoder=encoder)
        except TacitError as error:
            yield Check("fault", f"model {name}", str(error))


def report(checks: Iterator[Check], *, say: Callable[[str], None] = print) -> int:
    """Print one line per check and a last one that counts them; returns the number of faults."""
    counts = {"ok": 0, "note": 0, "warning": 0, "fault": 0}
    for check in checks:
        counts[check.level] += 1
        say(f"{check.level:8} {check.what}: {check.text}")
    say(f"{counts['fault']} faults, {counts['warning']} warnings")
    return counts["fault"]
