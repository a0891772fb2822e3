"""Runs of a synthesis for tests: instructions, small options, and what a folder must hold when a run is through."""

import json
import os
import time
from types import SimpleNamespace

from datasets import load_dataset
from tacit.synthesis.engine import synthesize

WORDS = "moon river stone garden window summer letter bread winter forest bridge paper".split()
INSTRUCTIONS = [
    {"id": f"row-{i}", "instruction": f"Say {' '.join(WORDS[: 1 + i * 5 % 12])} {i}.", "response": "unused"}
    for i in range(13)
]
MANY = [row | {"id": f"{row['id']}, {i}"} for i in range(6) for row in INSTRUCTIONS]
OPTIONS = {"max_new_tokens": 6, "batch_size": 3, "shard_size": 5, "say": None}  # three shards of INSTRUCTIONS
WHOLE = {}
EXACT = ["id", "instruction", "response", "finish_reason", "prompt_tokens", "response_tokens"]


def run(pair, out, rows=INSTRUCTIONS, **options):
    return synthesize(**pair, instructions=rows, out=out, **(OPTIONS | options))


def whole_run(pair, folders):
    """An uninterrupted run with the options of all: its folder, which nobody may change, and its rows."""
    key = tuple(pair.values())
    if key not in WHOLE:  # once for all files of tests
        out = folders.mktemp("whole") / "out"
        WHOLE[key] = (out, run(pair, out).to_list())
    return WHOLE[key]


def load(out):
    """The rows that ``datasets`` sees in a folder, read with a cache of this folder's own."""
    return load_dataset(str(out), split="train", cache_dir=f"{out}.cache")


def contents(out):
    """The dataset's files, less what made them (the device's threads may differ) and what instructions were called."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    record = json.loads(files.pop("synthesis.json"))
    lines = files.pop("README.md").splitlines()
    card = [line for line in lines if not line.startswith((b"| made with", b"| instructions"))]
    return {k: v for k, v in files.items() if not k.startswith(".")} | {
        "parameters": record["parameters"],
        "card": card,
    }


def check_mended(pair, out, whole, **options):
    """A run to the end gives the uninterrupted run's files, byte by byte, and leaves nothing else."""
    assert run(pair, out, **options).to_list() == whole[1]
    assert contents(out) == contents(whole[0])
    assert sorted(p.name for p in (out / ".synthesis").iterdir()) in (["data", "lock", "records"], ["lock", "records"])


def damage(out, kind):
    """Harm the second shard; returns what the message must name."""
    first, second = sorted((out / "data").iterdir())[:2]
    record = out / ".synthesis/records/00001.json"
    match kind:
        case "corrupt":
            content = bytearray(second.read_bytes())
            content[len(content) // 2] ^= 1
            second.write_bytes(content)
        case "truncated":
            second.write_bytes(second.read_bytes()[:-9])
        case "deleted":
            second.unlink()
        case "swapped":
            (out / "aside").write_bytes(first.read_bytes())
            os.replace(second, first)
            os.replace(out / "aside", second)
        case "swapped with its record":
            second.write_bytes(first.read_bytes())
            record.write_text((out / ".synthesis/records/00000.json").read_text())
        case "no record":
            record.unlink()
        case "bad record":
            record.write_text("{")
    return [second.name, *([first.name] if kind == "swapped" else [])]


def recorded(out):
    return len(list((out / ".synthesis/records").glob("*.json")))


def wait_for(condition, *, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def command(pair, out, instructions, *more):
    """The words of a ``synthesize`` command with the same small options."""
    words = ["synthesize", "--expert", pair["expert"], "--amateur", pair["amateur"]]
    words += ["--instructions", str(instructions), "--out", str(out)]
    sizes = {name: OPTIONS[name] for name in ("max_new_tokens", "batch_size", "shard_size")}
    words += [word for name, size in sizes.items() for word in (f"--{name.replace('_', '-')}", str(size))]
    return [*words, *more]


def instructions_file(folder, rows):
    """A JSONL file of ``rows``."""
    path = folder / "instructions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


class RayHere:
    """What is used of Ray, in this process: shards one after the other by the class and arguments that it was given."""

    class data:
        class DataContext:
            get_current = SimpleNamespace

        @classmethod
        def from_items(cls, items, **options):
            cls.items = items
            return cls

        @classmethod
        def map_batches(cls, worker, *, fn_constructor_args, **options):
            made = worker(*fn_constructor_args)
            rows = (made({k: [v] for k, v in item.items()}) for item in cls.items)
            return SimpleNamespace(iter_rows=lambda: ({k: v[0] for k, v in row.items()} for row in rows))

    @staticmethod
    def cluster_resources():
        return {}
