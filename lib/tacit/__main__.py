"""The command line: ``python -m tacit COMMAND``; ``--help`` lists the commands."""

from __future__ import annotations

import argparse
import errno
import json
import os
import sys

from tacit.support.errors import TacitError


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m tacit", description="Run Tacit's notebooks, pretrain its micro models, synthesize data."
    )
    commands = parser.add_subparsers(dest="command", required=True)
    run = commands.add_parser(
        "run", help="execute notebooks with a profile's parameters and print the table of findings"
    )
    run.add_argument(
        "notebooks",
        nargs="*",
        metavar="NOTEBOOK",
        help="a name such as 01_response_tuning, or its number; all by default",
    )
    run.add_argument("--profile", default="micro", help="the folder of params/ to use (default: micro)")
    run.add_argument(
        "-p",
        nargs=2,
        action="append",
        default=[],
        metavar=("NAME", "VALUE"),
        help="override one parameter (YAML); 0,0.5,1 for a number, or [A, B] for a text, runs each value and draws the curve",
    )
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time, each with its share of the cores")
    check = commands.add_parser(
        "check",
        help="look before a long run: parameters, models, datasets, pair, judge, disk, GPU memory; loads no weights",
    )
    check.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="as for run; all of the profile by default")
    check.add_argument("--profile", default="micro", help="the folder of params/ to use (default: micro)")
    check.add_argument(
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="as for run, one value"
    )
    verify = commands.add_parser(
        "verify", help="check a profile's outputs: executed to their end, clean, and made from what their commits hold"
    )
    verify.add_argument("--profile", default="micro", help="the folder of params/ and outputs/ (default: micro)")
    params = commands.add_parser(
        "params", help="list notebooks' parameters: type, default, meaning, each profile's value"
    )
    params.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="a name or number; all by default")
    compare = commands.add_parser(
        "compare", help="show two runs side by side, with the differences that are beyond their intervals"
    )
    compare.add_argument("a", metavar="A.json", help="a metrics file, such as outputs/micro/01_response_tuning.json")
    compare.add_argument("b", metavar="B.json", help="another")
    new = commands.add_parser("new", help="begin a notebook of your own, with parameters for smoke and micro")
    new.add_argument("name", metavar="NAME", help="two digits and words, such as 12_my_finding")
    table = commands.add_parser("table", help="print the table of findings from the outputs")
    table.add_argument("--profile", default="micro")
    table.add_argument("--write", metavar="README", help="write it between the markers of this file instead")
    table.add_argument("--bench", action="store_true", help="the table of speed ratios from outputs/bench instead")
    site = commands.add_parser(
        "site", help="render the executed notebooks as a static site, executing nothing (needs tacit[site])"
    )
    site.add_argument("--profile", default="micro", help="the folder of outputs/ to show (default: micro)")
    site.add_argument("--out", metavar="DIR", help="where the site goes, replacing an earlier one (default: site)")
    pretrain = commands.add_parser("pretrain", help="pretrain a micro model; resumes a killed run")
    pretrain.add_argument(
        "models",
        nargs="*",
        metavar="MODEL",
        help="micro-base, micro-student, micro-sibling (these by default), or readiness",
    )
    commands.add_parser("posttrain", help="post-train the micro teacher on response constraints, about five minutes")
    ready = commands.add_parser(
        "readiness", help="pretrain finding 6's base models, about two hours, and measure each; resumes when killed"
    )
    ready.add_argument("models", nargs="*", metavar="MODEL", help="such as markup-30-seed-1; all by default")
    bench = commands.add_parser("bench", help="measure speed ratios into outputs/bench, about five minutes")
    bench.add_argument(
        "--quick", action="store_true", help="tiny sizes into the cache folder: shows that it runs, measures nothing"
    )
    bench.add_argument("--repeats", type=int, default=5, help="interleaved repeats; their median counts (default: 5)")
    growth = commands.add_parser(
        "scaling", help="measure how a synthesis grows, into outputs/scaling and docs/many_machines.md"
    )
    growth.add_argument("--sizes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000], metavar="ROWS")
    add_gpu(commands)
    add_synthesize(commands)
    add_finetune(commands)
    return parser


def add_gpu(commands) -> None:
    """The options of ``tacit.gpubench``."""
    gpu = commands.add_parser("gpu", help="test and measure on a GPU into outputs/bench/gpu-<device>.json")
    gpu.add_argument("--part", choices=["tests", "decoding", "training"], help="all of them in this order by default")
    gpu.add_argument(
        "--pair", choices=["llama3.1-8b", "llama2-7b"], help="the shape of the decoded models; both by default"
    )
    gpu.add_argument("--dry-run", action="store_true", help="tiny models on any device: shows that it runs, no more")
    gpu.add_argument(
        "--budget-s", type=float, default=420.0, help="seconds for a part or pair; repeats shrink to it (default: 420)"
    )
    gpu.add_argument("--out", metavar="FILE", help="another result file; parts of the same commit are merged")


def add_synthesize(commands) -> None:
    """The options of ``tacit.synthesize``, with its defaults."""
    made = commands.add_parser(
        "synthesize", help="make a dataset from two models by CoDIT's decoding; resumes when killed"
    )
    model = "a checkpoint's folder, or a hub id with an optional @revision"
    made.add_argument("--expert", required=True, metavar="MODEL", help=model)
    made.add_argument("--amateur", required=True, metavar="MODEL", help=model)
    source = "a JSONL file with an instruction (and id) a line, or name:place as in params/, such as 'alpaca:tatsu-lab/alpaca@REV[:1000]' for 1000 rows"
    made.add_argument("--instructions", required=True, metavar="SOURCE", help=source)
    made.add_argument("--out", required=True, metavar="DIR", help="the dataset's folder; a killed run goes on in it")
    mask = made.add_mutually_exclusive_group()
    mask.add_argument(
        "--alpha", type=float, default=0.01, help="only tokens with p >= ALPHA max p of the expert (default: 0.01)"
    )
    mask.add_argument("--no-mask", action="store_const", const=0.0, dest="alpha", help="all tokens: --alpha 0")
    made.add_argument(
        "--beta", type=float, default=1.0, help="weight of the amateur (default: 1; 0 samples the expert directly)"
    )
    made.add_argument("--temperature", type=float, default=1.0, help="default: 1; 0 is greedy")
    made.add_argument(
        "--top-p", type=float, default=1.0, help="nucleus of the sampled distribution (default: 1, all of it)"
    )
    made.add_argument(
        "--no-contrast-end", action="store_false", dest="contrast_end", help="end tokens keep the expert's probability"
    )
    ratios = {"choices": ["none", "mean", "tokens"], "default": "mean"}
    made.add_argument("--log-ratios", **ratios, help="what to write of log p_expert - log p_amateur (mean)")
    made.add_argument("--seed", type=int, default=0)
    made.add_argument("--max-new-tokens", type=int, default=256, help="most tokens of a response (default: 256)")
    made.add_argument("--batch-size", type=int, default=128, help="rows decoded together (default: 128)")
    made.add_argument(
        "--shard-size", type=int, default=512, help="rows per file, which is made whole or again (default: 512)"
    )
    made.add_argument(
        "--workers", type=int, default=1, help="processes by Ray Data, each with the pair (default: 1, without Ray)"
    )
    cluster = "a running Ray cluster's address, for --workers above 1; DIR, local models and this package must be on a file system that all machines share"
    made.add_argument("--ray-address", metavar="ADDRESS", help=cluster)
    made.add_argument("--dtype", default="float32", help="float32 (default), bfloat16, float16 or auto")
    template = "a Jinja file that replaces the expert's chat template, or tulu for the papers' format"
    made.add_argument("--chat-template", metavar="FILE", help=template)
    made.add_argument(
        "--push-to-hub", metavar="REPO", help="upload the finished dataset (off by default; new ones are private)"
    )
    made.add_argument("--quiet", action="store_true", help="say nothing but errors")


def add_finetune(commands) -> None:
    """The options of ``tacit.training.checkpoints.tune_checkpoint``."""
    tuned = commands.add_parser(
        "finetune",
        help="finetune a checkpoint on instructions and responses; several GPUs by `accelerate launch --config_file params/accelerate/... -m tacit finetune`",
    )
    model = "a checkpoint's folder, or a hub id with an optional @revision"
    tuned.add_argument("--model", required=True, metavar="MODEL", help=model)
    source = "a JSONL file with an instruction and a response a line, or name:place as in params/, such as 'lima:GAIR/lima@REV[:1000]' for 1000 rows"
    tuned.add_argument("--examples", required=True, metavar="SOURCE", help=source)
    tuned.add_argument("--out", required=True, metavar="DIR", help="the tuned model's folder, which must not exist yet")
    tuned.add_argument("--epochs", type=int, default=5, help="default: 5")
    tuned.add_argument("--learning-rate", type=float, default=1e-5, help="default: 1e-5")
    tuned.add_argument("--batch-size", type=int, default=64, help="examples a step, of all processes (default: 64)")
    micro = "examples in a process's memory at once; below the batch size, activations are recomputed (default: all of its share)"
    tuned.add_argument("--micro-batch", type=int, help=micro)
    again = "recompute activations whatever the micro batch, or keep them"
    tuned.add_argument("--recompute", action=argparse.BooleanOptionalAction, default=None, help=again)
    tuned.add_argument(
        "--packing", action="store_true", help="rows one after another instead of padded: the same result, faster"
    )
    tuned.add_argument(
        "--lora-r", type=int, metavar="R", help="train adapters of this rank, then add them to the weights (needs peft)"
    )
    tuned.add_argument("--lora-alpha", type=float, metavar="A", help="the adapters' scale is A / R (default: 2 R)")
    tuned.add_argument("--max-length", type=int, default=2048, help="longer examples are cut (default: 2048 tokens)")
    tuned.add_argument("--seed", type=int, default=0)
    tuned.add_argument("--dtype", default="float32", help="of the weights: float32 (default) or bfloat16")
    kept = (
        "adamw-master keeps float32 weights beside --dtype bfloat16; adamw (default) with bfloat16 drops small updates"
    )
    tuned.add_argument("--optimizer", default="adamw", help=kept)
    template = "a Jinja file that replaces the model's chat template, or tulu for the papers' format"
    tuned.add_argument("--chat-template", metavar="FILE", help=template)
    tuned.add_argument("--quiet", action="store_true", help="say nothing but errors")


def read_template(given: str | None) -> str | None:
    """The chat template of a ``--chat-template`` option: ``tulu``, a file's content, or None.

    Raises TacitError for a file that cannot be read.
    """
    from pathlib import Path

    from tacit.models.chat import tulu_template

    if given is None or given == "tulu":
        return given and tulu_template()
    try:
        return Path(given).read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise TacitError(f"--chat-template: cannot read {given}: {error}") from None


def finetune_model(options: argparse.Namespace) -> None:
    """Run ``tune_checkpoint`` with the command's options, in every process that accelerate launched.

    Raises TacitError for --lora-alpha without --lora-r, and for an example without a response.
    """
    from tacit.data.sources import load_instructions, source_name
    from tacit.training.checkpoints import tune_checkpoint

    values = {key: value for key, value in vars(options).items() if key != "command"}
    quiet, rank, alpha = (values.pop(key) for key in ("quiet", "lora_r", "lora_alpha"))
    if rank is None and alpha is not None:
        raise TacitError("--lora-alpha needs --lora-r")
    if rank is not None:
        values["lora"] = {"r": rank, "alpha": 2 * rank if alpha is None else alpha}
    values["chat_template"] = read_template(values["chat_template"])
    examples = load_instructions(values["examples"])
    values["examples_name"] = source_name(values.pop("examples"))
    blank = next((row["id"] for row in examples if not row["response"].strip()), None)
    if blank is not None:
        raise TacitError(f"{options.examples}: example {blank} has no response to learn")
    say = None if quiet else lambda text: print(text, flush=True)
    model, out = values.pop("model"), values.pop("out")
    tune_checkpoint(model, examples, out=out, say=say, **values)


def synthesize_dataset(options: argparse.Namespace) -> None:
    """Run ``tacit.synthesize`` with the command's options."""
    from tacit.data.sources import load_instructions, source_name
    from tacit.synthesis.engine import synthesize

    values = vars(options).copy()
    quiet, template = values.pop("quiet"), read_template(values.pop("chat_template"))
    values["instructions_name"] = source_name(values["instructions"])
    values["instructions"] = load_instructions(values["instructions"])
    del values["command"]
    say = None if quiet else lambda text: print(text, flush=True)
    synthesize(**values, chat_template=template, say=say)


def recipes() -> dict[str, dict]:
    """The settings of every model that this repository pretrains, by name.

    The readiness models differ in the share of freshly drawn markup in their corpus (or in one markup for all: ``one``) and
    in the seed, in nothing else.
    """
    from tacit.support import paths

    base = paths.MODELS / "micro-base"
    small = {"side": "base", "architecture": "llama", "width": 192, "layers": 4, "n_tokens": 4_000_000}
    readiness = {
        f"markup-{percent:02d}{'-one' if one else ''}-seed-{seed}": {
            "tokenizer_from": base,
            "markup_share": percent / 100,
            "one_markup": seed if one else None,
            "seed": seed,
            **small,
        }
        for seed in (1, 2)
        for percent, one in ((0, False), (3, False), (10, False), (30, False), (30, True))
    }
    for name, recipe in readiness.items():
        recipe["out"] = paths.cache_root() / "readiness" / name
    committed = {
        "micro-base": {"side": "base", "architecture": "llama", "layers": 6, "n_tokens": 10_500_000, "seed": 1},
        "micro-student": {
            "side": "student",
            "architecture": "gpt2",
            "layers": 4,
            "n_tokens": 5_000_000,
            "seed": 2,
            "tokenizer_from": base,
        },
        "micro-sibling": {  # finding 9's: the same base, gone on with the student's documents
            "side": "student",
            "architecture": "llama",
            "layers": 6,
            "n_tokens": 800_000,
            "learning_rate": 1e-3,
            "seed": 3,
            "start_from": base,
            "tokenizer_from": base,
        },
    }
    return {name: {"out": paths.MODELS / name} | recipe for name, recipe in committed.items()} | readiness


def pretrain_models(names: list[str]) -> None:
    """Pretrain micro models anew: the three committed ones by default, ``readiness`` for all of finding 6's.

    Raises TacitError for an unknown model.
    """
    from tacit.support import paths
    from tacit.training.pretraining import pretrain

    known = recipes()
    groups = {"readiness": [name for name in known if name.startswith("markup-")]}
    wanted = [
        name
        for given in names or ["micro-base", "micro-student", "micro-sibling"]
        for name in groups.get(given, [given])
    ]
    unknown = [name for name in wanted if name not in known]
    if unknown:
        raise TacitError(f"unknown model {unknown[0]!r}: choose among readiness, {', '.join(known)}")
    for name in wanted:
        work = paths.cache_root() / "pretraining" / name
        out = pretrain(name, work=work, **known[name])
        print(f"{name} is in {out}; its checkpoints can be deleted: {work}")


def post_train_teacher() -> None:
    """Post-train micro-base to the micro teacher, with the families and constraints of findings 7 to 11."""
    from tacit.support import paths
    from tacit.training.posttraining import post_train

    out = post_train(
        base="outputs/models/micro-base",
        out=paths.MODELS / "micro-teacher",
        families="home food colour kind size river craft mayor bigger larger list opposite rhyme capitals spell".split(),
        constraints=(
            "upper lower unpunctuated hyphens question exclamation ellipsis ending opening title bullets brackets quotes twice"
        ).split(),
        sizes=[2_000, 2_500, 3_000, 4_000],
        least=0.6,
        most=0.9,
        n_validation=192,
        epochs=2,
        learning_rate=3e-4,
        batch_size=16,
        max_new_tokens=64,
        seed=100,
    )
    print(f"micro-teacher is in {out}")


def measure_readiness(names: list[str]) -> None:
    """Pretrain finding 6's base models where they are missing and measure each with the notebook's micro parameters.

    Raises TacitError for an unknown model.
    """
    from tacit.experiments import evaluation
    from tacit.findings import readiness
    from tacit.running.parameters import read_params
    from tacit.support import paths
    from tacit.support.files import write_json

    known = [name for name in recipes() if name.startswith("markup-")]
    unknown = [name for name in names if name not in known]
    if unknown:
        raise TacitError(f"unknown model {unknown[0]!r}: choose among {', '.join(known)}")
    names = names or known
    missing = [name for name in names if not (recipes()[name]["out"] / "config.json").exists()]
    if missing:
        pretrain_models(missing)
    values = read_params("micro", "06_readiness")
    elsewhere = ("bases", "least", "most", "one", "world", "n_validation", "n_test", "output")
    bench = evaluation.micro_evaluation(values["world"], n_validation=values["n_validation"], n_test=values["n_test"])
    folder = paths.OUTPUTS / "readiness"
    folder.mkdir(exist_ok=True)
    for name in names:
        settings = {key: value for key, value in values.items() if key not in elsewhere}
        record = readiness.measure_base(str(recipes()[name]["out"]), bench=bench, **settings)
        write_json(folder / f"{name}.json", record)
        print(f"measured: outputs/readiness/{name}.json")


def bench_speed(options: argparse.Namespace) -> int:
    """Measure speed on this machine's CPU."""
    import bench

    path = bench.run_benches(quick=options.quick, repeats=options.repeats)
    print(f"written: {path}" + (" (a quick run measures nothing)" if options.quick else ""))
    return 0


def measure_scaling(sizes: list[int]) -> None:
    """Measure the engine's growth, simulate fleets, and write both into outputs and the page that shows them."""
    import growth

    from tacit.support import paths

    path = growth.write_scaling(paths.OUTPUTS / "scaling" / "engine.json", sizes=sizes)
    growth.write_scaling_tables(paths.ROOT / "docs" / "many_machines.md", json.loads(path.read_text("utf-8")))
    print(f"written: {path} and docs/many_machines.md")


def measure_gpu(options: argparse.Namespace) -> int:
    """Run the wanted parts of ``tacit.gpubench``, each added to the result file as it ends."""
    import gpubench

    settings = {"dry_run": options.dry_run, "budget_s": options.budget_s, "out": options.out}
    say = lambda text: print(text, flush=True)  # noqa: E731
    parts = [options.part] if options.part else ["tests", "decoding", "training"]
    for part in parts:
        for pair in (
            ([options.pair] if options.pair else list(gpubench.PAIRS)) if part == "decoding" else ["llama3.1-8b"]
        ):
            path = gpubench.run_part(part, pair=pair, say=say, **settings)
    print(gpubench.describe(gpubench.read_results(path)))
    print(f"written: {path}" + (" (a dry run measures nothing)" if options.dry_run else ""))
    return 0


def check_profile(options: argparse.Namespace) -> int:
    """Check what a profile needs before a long run; 1 where there is a fault."""
    from tacit.running import check

    checks = check.check_profile(options.notebooks, profile=options.profile, overrides=dict(options.p))
    return 1 if check.report(checks) else 0


def verify_outputs(options: argparse.Namespace) -> int:
    """Check a profile's outputs; 1 where there is a fault."""
    from tacit.running import verify

    return 1 if verify.report(options.profile) else 0


def show_table(options: argparse.Namespace) -> int:
    """Print the table of findings or of speed, or write it into a page."""
    import bench

    from tacit.running import runner
    from tacit.support import paths

    if options.bench and options.write:
        bench.write_bench_table(paths.ROOT / options.write)
    elif options.bench:
        print(bench.bench_table())
    elif options.write:
        runner.write_table(paths.ROOT / options.write, profile=options.profile)
    else:
        print(runner.table([p.stem for p in runner.find_notebooks([])], profile=options.profile))
    return 0


def make_site(options: argparse.Namespace) -> None:
    """Build the static site and say where its front page is."""
    from tacit.running.site import build_site
    from tacit.support import paths

    print(f"the front page: {build_site(profile=options.profile, out=options.out or paths.ROOT / 'site')}")


def run_notebooks(options: argparse.Namespace) -> int:
    """Execute notebooks; 1 when one of them failed."""
    from tacit.running import sweeps

    settings = {"profile": options.profile, "overrides": dict(options.p), "jobs": options.jobs}
    return 1 if sweeps.run(options.notebooks, **settings) else 0


def list_parameters(options: argparse.Namespace) -> None:
    """Print what the notebooks' parameters are."""
    from tacit.running import parameters, runner

    print("\n\n".join(map(parameters.describe_parameters, runner.find_notebooks(options.notebooks))))


def show_comparison(options: argparse.Namespace) -> None:
    """Print two runs side by side."""
    from tacit.running import differences

    print(differences.compare_runs(options.a, options.b))


def begin_notebook(options: argparse.Namespace) -> None:
    """Write a new notebook from the template, and say what was written."""
    from tacit.running import templates

    for path in templates.begin_notebook(options.name):
        print(f"written: {path}")
    print(f"next: .venv/bin/python -m tacit run {options.name} --profile smoke; CONTRIBUTING.md has the steps")


COMMANDS = {
    "run": run_notebooks,
    "check": check_profile,
    "verify": verify_outputs,
    "params": list_parameters,
    "compare": show_comparison,
    "new": begin_notebook,
    "table": show_table,
    "site": make_site,
    "synthesize": synthesize_dataset,
    "finetune": finetune_model,
    "pretrain": lambda options: pretrain_models(options.models),
    "posttrain": lambda options: post_train_teacher(),
    "readiness": lambda options: measure_readiness(options.models),
    "bench": bench_speed,
    "gpu": measure_gpu,
    "scaling": lambda options: measure_scaling(options.sizes),
}


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 when a notebook failed or a check found a fault, 2 for an error that the user can mend."""
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
