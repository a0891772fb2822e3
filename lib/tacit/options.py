"""The options of the command line: what each command takes, with its defaults and help."""

from __future__ import annotations

import argparse
from dataclasses import Field, fields

from tacit.synthesis.settings import Settings

MODEL = "a checkpoint's folder, or a hub id with an optional @revision"
TYPES = {"float": float, "int": int}


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m tacit", description="Run Tacit's notebooks, pretrain its micro models, synthesize data."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    for add in (_add_notebooks, _add_outputs, _add_models, _add_synthesize, _add_finetune):
        add(commands)
    return parser


def _add_profile(command: argparse.ArgumentParser, folders: str) -> None:
    command.add_argument("--profile", default="micro", help=f"the folder of {folders} (default: micro)")


def _add_notebooks(commands) -> None:
    """The commands that run notebooks, or look at them before."""
    overriding = {"nargs": 2, "action": "append", "default": [], "metavar": ("NAME", "VALUE")}
    run = commands.add_parser(
        "run", help="execute notebooks with a profile's parameters and print the table of findings"
    )
    which = "a name such as 01_response_tuning, or its number; all by default"
    run.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help=which)
    _add_profile(run, "params/")
    value = (
        "override one parameter (YAML); 0,0.5,1 for a number, or [A, B] for a text, runs each value and draws the curve"
    )
    run.add_argument("-p", **overriding, help=value)
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time, each with its share of the cores")
    check = commands.add_parser(
        "check",
        help="look before a long run: parameters, models, datasets, pair, judge, disk, GPU memory; loads no weights",
    )
    check.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="as for run; all of the profile by default")
    _add_profile(check, "params/")
    check.add_argument("-p", **overriding, help="as for run, one value")
    params = commands.add_parser(
        "params", help="list notebooks' parameters: type, default, meaning, each profile's value"
    )
    params.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a name or number; all by default")
    new = commands.add_parser("new", help="begin a notebook of your own, with parameters for smoke and micro")
    new.add_argument("name", metavar="NAME", help="two digits and words, such as 12_my_finding")


def _add_outputs(commands) -> None:
    """The commands that read what notebooks have written."""
    verify = commands.add_parser(
        "verify", help="check a profile's outputs: executed to their end, clean, and made from what their commits hold"
    )
    _add_profile(verify, "params/ and outputs/")
    compare = commands.add_parser(
        "compare", help="show two runs side by side, with the differences that are beyond their intervals"
    )
    compare.add_argument("a", metavar="A.json", help="a metrics file, such as outputs/micro/01_response_tuning.json")
    compare.add_argument("b", metavar="B.json", help="another")
    table = commands.add_parser("table", help="print the table of findings from the outputs")
    _add_profile(table, "outputs/")
    table.add_argument("--write", metavar="README", help="write it between the markers of this file instead")
    site = commands.add_parser(
        "site", help="render the executed notebooks as a static site, executing nothing (needs tacit[site])"
    )
    _add_profile(site, "outputs/ to show")
    site.add_argument("--out", metavar="DIR", help="where the site goes, replacing an earlier one (default: site)")


def _add_models(commands) -> None:
    """The commands that make the micro models by the recipes of params/models."""
    pretrain = commands.add_parser("pretrain", help="pretrain a micro model; resumes a killed run")
    known = "micro-base, micro-student, micro-sibling (these by default), or readiness"
    pretrain.add_argument("models", nargs="*", metavar="MODEL", help=known)
    commands.add_parser("posttrain", help="post-train the micro teacher on response constraints, about five minutes")
    ready = commands.add_parser(
        "readiness", help="pretrain finding 6's base models, about two hours, and measure each; resumes when killed"
    )
    ready.add_argument("models", nargs="*", metavar="MODEL", help="such as markup-30-seed-1; all by default")


def _add_setting(parser, setting: Field) -> None:
    """One field of ``Settings`` as an option; a true one is turned off by ``--no-NAME``."""
    name, meaning, default = setting.name.replace("_", "-"), setting.metadata["meaning"], setting.default
    if setting.type == "bool":
        parser.add_argument(f"--no-{name}", action="store_false", dest=setting.name, help=meaning)
        return
    kind, shown = TYPES.get(setting.type, str), setting.metadata["shown"]
    meaning += f" (default: {default})" if default is not None else ""
    parser.add_argument(f"--{name}", type=kind, default=default, help=meaning, **shown)


def _add_synthesize(commands) -> None:
    """The options of ``tacit.synthesize``, with its defaults."""
    synthesize = commands.add_parser(
        "synthesize", help="make a dataset from two models by CoDIT's decoding; resumes when killed"
    )
    synthesize.add_argument("--expert", required=True, metavar="MODEL", help=MODEL)
    synthesize.add_argument("--amateur", required=True, metavar="MODEL", help=MODEL)
    source = (
        "a JSONL file with an instruction (and id) a line, or name:place as in params/, such as "
        "'alpaca:tatsu-lab/alpaca@REV[:1000]' for 1000 rows"
    )
    synthesize.add_argument("--instructions", required=True, metavar="SOURCE", help=source)
    synthesize.add_argument(
        "--out", required=True, metavar="DIR", help="the dataset's folder; a killed run goes on in it"
    )
    mask = synthesize.add_mutually_exclusive_group()
    for setting in fields(Settings):
        _add_setting(mask if setting.name == "alpha" else synthesize, setting)
    mask.add_argument("--no-mask", action="store_const", const=0.0, dest="alpha", help="all tokens: --alpha 0")
    synthesize.add_argument("--quiet", action="store_true", help="say nothing but errors")


def _add_finetune(commands) -> None:
    """The options of ``training.checkpoints.tune_checkpoint``."""
    tune = commands.add_parser(
        "finetune",
        help="finetune a checkpoint on instructions and responses; several GPUs by `accelerate launch --config_file "
        "params/accelerate/... -m tacit finetune`",
    )
    tune.add_argument("--model", required=True, metavar="MODEL", help=MODEL)
    source = (
        "a JSONL file with an instruction and a response a line, or name:place as in params/, such as "
        "'lima:GAIR/lima@REV[:1000]' for 1000 rows"
    )
    tune.add_argument("--examples", required=True, metavar="SOURCE", help=source)
    tune.add_argument("--out", required=True, metavar="DIR", help="the tuned model's folder, which must not exist yet")
    tune.add_argument("--epochs", type=int, default=5, help="default: 5")
    tune.add_argument("--learning-rate", type=float, default=1e-5, help="default: 1e-5")
    tune.add_argument("--batch-size", type=int, default=64, help="examples a step, of all processes (default: 64)")
    micro = (
        "examples in a process's memory at once; below the batch size, activations are recomputed (default: all of "
        "its share)"
    )
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
    optimizer = (
        "adamw-master keeps float32 weights beside --dtype bfloat16; adamw (default) with bfloat16 drops small updates"
    )
    tune.add_argument("--optimizer", default="adamw", help=optimizer)
    template = "a Jinja file that replaces the model's chat template, or tulu for the papers' format"
    tune.add_argument("--chat-template", metavar="FILE", help=template)
    tune.add_argument("--quiet", action="store_true", help="say nothing but errors")
