"""The command line: ``python -m tacit COMMAND``; ``--help`` lists the commands.

Each command imports what it needs when it is called, so that those that only read files start at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable
from pathlib import Path

from tacit.options import make_parser
from tacit.support import paths
from tacit.support.errors import TacitError


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute notebooks; 1 when one of them failed."""
    from tacit.running import sweeps

    settings = {"profile": options.profile, "overrides": dict(options.p), "jobs": options.jobs}
    return 1 if sweeps.run(options.notebooks, **settings) else 0


def check_profile(options: argparse.Namespace) -> int:
    """Check what a profile needs before a long run; 1 where there is a fault."""
    from tacit.running import check

    checks = check.check_profile(options.notebooks, profile=options.profile, overrides=dict(options.p))
    return 1 if check.report(checks) else 0


def list_parameters(options: argparse.Namespace) -> None:
    """Print what the notebooks' parameters are."""
    from tacit.running.parameters import describe_parameters
    from tacit.running.plan import find_notebooks

    print("\n\n".join(map(describe_parameters, find_notebooks(options.notebooks))))


def begin_notebook(options: argparse.Namespace) -> None:
    """Write a new notebook from the template, and say what was written."""
    from tacit.running import templates

    for path in templates.begin_notebook(options.name):
        print(f"written: {path}")
    print(f"next: .venv/bin/python -m tacit run {options.name} --profile smoke; CONTRIBUTING.md has the steps")


def verify_outputs(options: argparse.Namespace) -> int:
    """Check a profile's outputs; 1 where there is a fault."""
    from tacit.running import verify

    return 1 if verify.report(options.profile) else 0


def show_comparison(options: argparse.Namespace) -> None:
    """Print two runs side by side."""
    from tacit.running import differences

    print(differences.compare_runs(options.a, options.b))


def show_table(options: argparse.Namespace) -> None:
    """Print the table of findings, or write it into a page."""
    from tacit.running.plan import find_notebooks
    from tacit.running.tables import findings_table, write_findings_table

    stems = [path.stem for path in find_notebooks([])]
    if options.write:
        write_findings_table(paths.ROOT / options.write, stems, profile=options.profile)
    else:
        print(findings_table(stems, profile=options.profile))


def make_site(options: argparse.Namespace) -> None:
    """Build the static site and say where its front page is."""
    from tacit.running.site import build_site

    print(f"the front page: {build_site(profile=options.profile, out=options.out or paths.ROOT / 'site')}")


def _check_known(names: Iterable[str], known: Iterable[str]) -> None:
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TacitError(f"unknown model {unknown[0]!r}: choose among {', '.join(known)}")


def pretrain_models(options: argparse.Namespace) -> None:
    """Pretrain micro models anew: the committed ones by default, ``readiness`` for all of finding 6's.

    Raises TacitError for an unknown model.
    """
    from tacit.training.pretraining import pretrain
    from tacit.training.recipes import COMMITTED, pretraining_recipes

    recipes = pretraining_recipes()
    groups = {"readiness": [name for name in recipes if name not in COMMITTED]}
    names = [name for given in options.models or COMMITTED for name in groups.get(given, [given])]
    _check_known(names, ["readiness", *recipes])
    for name in names:
        work = paths.cache_root() / "pretraining" / name
        out = pretrain(name, work=work, **recipes[name])
        print(f"{name} is in {out}; its checkpoints can be deleted: {work}")


def post_train_teacher(options: argparse.Namespace) -> None:
    """Post-train micro-base to the micro teacher, with the families and constraints of findings 7 to 11."""
    from tacit.training.posttraining import post_train
    from tacit.training.recipes import teacher_recipe

    print(f"micro-teacher is in {post_train(**teacher_recipe())}")


def measure_readiness(options: argparse.Namespace) -> None:
    """Pretrain finding 6's base models where they are missing and measure each with the notebook's micro parameters.

    Raises TacitError for an unknown model.
    """
    from tacit.experiments import evaluation
    from tacit.findings import readiness
    from tacit.running.parameters import read_params
    from tacit.support.files import write_json
    from tacit.training.recipes import COMMITTED, pretraining_recipes

    folders = {name: recipe["out"] for name, recipe in pretraining_recipes().items() if name not in COMMITTED}
    _check_known(options.models, folders)
    names = options.models or list(folders)
    missing = [name for name in names if not (folders[name] / "config.json").exists()]
    if missing:
        pretrain_models(argparse.Namespace(models=missing))
    values = read_params("micro", "06_readiness")
    elsewhere = ("bases", "least", "most", "one", "world", "n_validation", "n_test", "output")
    bench = evaluation.micro_evaluation(values["world"], n_validation=values["n_validation"], n_test=values["n_test"])
    results = paths.OUTPUTS / "readiness"
    results.mkdir(exist_ok=True)
    for name in names:
        settings = {key: value for key, value in values.items() if key not in elsewhere}
        write_json(results / f"{name}.json", readiness.measure_base(str(folders[name]), bench=bench, **settings))
        print(f"measured: outputs/readiness/{name}.json")


def read_template(given: str | None) -> str | None:
    """The chat template of a ``--chat-template`` option: ``tulu``, a file's content, or None.

    Raises TacitError for a file that cannot be read.
    """
    from tacit.models.chat import tulu_template

    if given is None or given == "tulu":
        return given and tulu_template()
    try:
        return Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"--chat-template: cannot read {given}: {error}") from None


def _values(options: argparse.Namespace) -> dict:
    """The options by name, with the chat template read and ``say`` for ``quiet``."""
    values = {name: value for name, value in vars(options).items() if name not in ("command", "quiet")}
    values["chat_template"] = read_template(values["chat_template"])
    return values | {"say": None if options.quiet else lambda text: print(text, flush=True)}


def synthesize_dataset(options: argparse.Namespace) -> None:
    """Run ``tacit.synthesize`` with the command's options."""
    from tacit.data.sources import load_instructions, source_name
    from tacit.synthesis.engine import synthesize

    values = _values(options)
    values["instructions"] = load_instructions(options.instructions)
    synthesize(**values, instructions_name=source_name(options.instructions))


def finetune_model(options: argparse.Namespace) -> None:
    """Run ``tune_checkpoint`` with the command's options, in every process that accelerate launched.

    Raises TacitError for --lora-alpha without --lora-r, and for an example without a response.
    """
    from tacit.data.sources import load_instructions, source_name
    from tacit.training.checkpoints import tune_checkpoint

    values = _values(options)
    rank, alpha = values.pop("lora_r"), values.pop("lora_alpha")
    if rank is None and alpha is not None:
        raise TacitError("--lora-alpha needs --lora-r")
    if rank is not None:
        values["lora"] = {"r": rank, "alpha": 2 * rank if alpha is None else alpha}
    values["examples"] = examples = load_instructions(options.examples)
    blank = next((row["id"] for row in examples if not row["response"].strip()), None)
    if blank is not None:
        raise TacitError(f"{options.examples}: example {blank} has no response to learn")
    tune_checkpoint(**values, examples_name=source_name(options.examples))


COMMANDS: dict[str, Callable[[argparse.Namespace], int | None]] = {
    "run": run_notebooks,
    "check": check_profile,
    "params": list_parameters,
    "new": begin_notebook,
    "verify": verify_outputs,
    "compare": show_comparison,
    "table": show_table,
    "site": make_site,
    "pretrain": pretrain_models,
    "posttrain": post_train_teacher,
    "readiness": measure_readiness,
    "synthesize": synthesize_dataset,
    "finetune": finetune_model,
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns 0 on success, 1 when a notebook failed or a check found a fault, 2 for an error that the user can mend,
    130 after an interrupt, 141 when nobody reads the output any more.
    """
    options = make_parser().parse_args(arguments)
    try:
        status = COMMANDS[options.command](options) or 0
        sys.stdout.flush()  # what cannot be written is found here, not by the interpreter's end
        return status
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):
            raise
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if error.errno == errno.EPIPE:  # `| head` has read enough
            return 141
        print(f"error: {error.strerror}: free some space", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished notebooks, shards and the cache are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
