"""The command line: ``python -m tacit run | check | table | synthesize | pretrain | posttrain | readiness | bench``."""

from __future__ import annotations

import argparse
import sys

from tacit.errors import TacitError


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
        "-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="override one parameter (YAML)"
    )
    run.add_argument("--jobs", type=int, default=1, help="notebooks at a time, each with its share of the cores")
    check = commands.add_parser(
        "check",
        help="look before a long run: parameters, models, datasets, pair, judge, disk, GPU memory; loads no weights",
    )
    check.add_argument("notebooks", nargs="*", metavar="NOTEBOOK", help="as for run; all of the profile by default")
    check.add_argument("--profile", default="micro", help="the folder of params/ to use (default: micro)")
    check.add_argument("-p", nargs=2, action="append", default=[], metavar=("NAME", "VALUE"), help="as for run")
    table = commands.add_parser("table", help="print the table of findings from the outputs")
    table.add_argument("--profile", default="micro")
    table.add_argument("--write", metavar="README", help="write it between the markers of this file instead")
    table.add_argument("--bench", action="store_true", help="the table of speed ratios from outputs/bench instead")
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
    add_synthesize(commands)
    return parser


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


def synthesize_dataset(options: argparse.Namespace) -> None:
    """Run ``tacit.synthesize`` with the command's options."""
    from pathlib import Path

    from tacit.chat import tulu_template
    from tacit.synthesis import load_instructions, source_name, synthesize

    values = vars(options).copy()
    quiet, template = values.pop("quiet"), values.pop("chat_template")
    if template == "tulu":
        template = tulu_template()
    elif template is not None:
        try:
            template = Path(template).read_text("utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise TacitError(f"--chat-template: cannot read {template}: {error}") from None
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
    from tacit import paths

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
    """Pretrain micro models anew: the three committed ones by default, ``readiness`` for all of finding 6's."""
    from tacit import paths
    from tacit.pretraining import pretrain

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
    from tacit import paths
    from tacit.posttraining import post_train

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
    """Pretrain finding 6's base models where they are missing and measure each with the notebook's micro parameters."""
    from tacit import evaluation, paths, readiness
    from tacit.metrics import write_json
    from tacit.parameters import read_params

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
    """Measure speed, or show or write the table of what was measured."""
    from tacit import bench, paths

    if options.command == "bench":
        path = bench.run_benches(quick=options.quick, repeats=options.repeats)
        print(f"written: {path}" + (" (a quick run measures nothing)" if options.quick else ""))
    elif options.write:
        bench.write_bench_table(paths.ROOT / options.write)
    else:
        print(bench.bench_table())
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 when a notebook failed or a check found a fault, 2 for an error that the user can mend."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "pretrain":
            pretrain_models(options.models)
            return 0
        if options.command == "posttrain":
            post_train_teacher()
            return 0
        if options.command == "readiness":
            measure_readiness(options.models)
            return 0
        if options.command == "synthesize":
            synthesize_dataset(options)
            return 0
        if options.command == "bench" or getattr(options, "bench", False):
            return bench_speed(options)
        if options.command == "check":
            from tacit import preflight

            checks = preflight.check_profile(options.notebooks, profile=options.profile, overrides=dict(options.p))
            return 1 if preflight.report(checks) else 0
        from tacit import paths, runner

        if options.command == "table":
            if options.write:
                runner.write_table(paths.ROOT / options.write, profile=options.profile)
            else:
                print(runner.table([p.stem for p in runner.find_notebooks([])], profile=options.profile))
            return 0
        return (
            1
            if runner.run(options.notebooks, profile=options.profile, overrides=dict(options.p), jobs=options.jobs)
            else 0
        )
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished notebooks, shards and the cache are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
