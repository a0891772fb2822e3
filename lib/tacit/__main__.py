"""The command line: ``python -m tacit run | table | pretrain``."""

from __future__ import annotations

import argparse
import sys

from tacit.errors import TacitError


def make_parser() -> argparse.ArgumentParser:
    """The parser of all commands."""
    parser = argparse.ArgumentParser(
        prog="python -m tacit", description="Run Tacit's notebooks and pretrain its micro models."
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
    table = commands.add_parser("table", help="print the table of findings from the outputs")
    table.add_argument("--profile", default="micro")
    table.add_argument("--write", metavar="README", help="write it between the markers of this file instead")
    pretrain = commands.add_parser("pretrain", help="pretrain a micro model; resumes a killed run")
    pretrain.add_argument("models", nargs="*", metavar="MODEL", help="micro-base or micro-student; both by default")
    return parser


def pretrain_models(names: list[str]) -> None:
    """Pretrain the committed micro models anew into ``outputs/models/``."""
    from tacit import paths
    from tacit.pretraining import pretrain

    recipes = {
        "micro-base": {"side": "base", "architecture": "llama", "layers": 6, "n_tokens": 10_500_000, "seed": 1},
        "micro-student": {
            "side": "student",
            "architecture": "gpt2",
            "layers": 4,
            "n_tokens": 5_000_000,
            "seed": 2,
            "tokenizer_from": paths.MODELS / "micro-base",
        },
    }
    for name in names or recipes:
        if name not in recipes:
            raise TacitError(f"unknown model {name!r}: choose {' or '.join(recipes)}")
        work = paths.cache_root() / "pretraining" / name
        pretrain(name, out=paths.MODELS / name, work=work, **recipes[name])
        print(f"{name} is in outputs/models/{name}; its checkpoints can be deleted: {work}")


def main(arguments: list[str] | None = None) -> int:
    """Run one command; 0 on success, 1 when a notebook failed, 2 for an error that the user can mend."""
    options = make_parser().parse_args(arguments)
    try:
        if options.command == "pretrain":
            pretrain_models(options.models)
            return 0
        from tacit import paths, runner

        if options.command == "table":
            if options.write:
                runner.write_table(paths.ROOT / options.write, profile=options.profile)
            else:
                print(runner.table([p.stem for p in runner.find_notebooks([])], profile=options.profile))
            return 0
        return 1 if runner.run(options.notebooks, profile=options.profile, overrides=dict(options.p)) else 0
    except TacitError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("stopped; finished notebooks and the cache are kept", file=sys.stderr)
        return 130


if __name__ == "__main__":
    sys.exit(main())
