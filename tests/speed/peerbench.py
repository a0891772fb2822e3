"""Speed and memory of a real model beside llama.cpp, on the same weights: greedy responses on this machine's processor.

``python tests/speed/peerbench.py`` writes ``outputs/bench/peer-<device>.json``, in about ten minutes on two idle cores.
It needs ``python -m tacit fetch smollm2-135m-instruct``, and for the peer llama-cpp-python, which pip compiles in some
minutes. Each run is a process of its own, so that its peak of memory is its own; the arms take turns.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import resource
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import records
import torch
from tacit.decoding.generation import generate_responses
from tacit.experiments.realtasks import draw_prompts, read_questions, split_questions
from tacit.models.chat import encode_prompt
from tacit.models.loading import load_model, load_tokenizer
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training.packaged import KNOWN, find_file

MODEL = "smollm2-135m-instruct"
PROMPTS, TOKENS = 16, 40
Respond = Callable[[Sequence[str]], list[tuple[str, int]]]  # each response's text, and its tokens


def ours(dtype: str, batch_size: int) -> Respond:
    """Tacit on the unpacked weights."""
    folder = str(paths.cache_root() / "models" / MODEL)
    model, tokenizer = load_model(folder, dtype=dtype), load_tokenizer(folder)

    def respond(prompts: Sequence[str]) -> list[tuple[str, int]]:
        responses = generate_responses(model, tokenizer, prompts, max_new_tokens=TOKENS, batch_size=batch_size)
        return [(response.text, response.n_tokens) for response in responses]

    return respond


def llama_cpp() -> Respond:
    """llama.cpp on the packed file, one prompt after another, which is all that ``create_completion`` offers."""
    from llama_cpp import Llama

    threads = torch.get_num_threads()
    model = Llama(
        str(find_file(KNOWN[MODEL])), n_ctx=1024, n_threads=threads, n_threads_batch=threads, seed=0, verbose=False
    )
    tokenizer = load_tokenizer(str(paths.cache_root() / "models" / MODEL))

    def respond(prompts: Sequence[str]) -> list[tuple[str, int]]:
        said = []
        for prompt in prompts:
            model.reset()  # no prompt profits from the one before it
            ids = encode_prompt(tokenizer, prompt)
            out = model.create_completion(ids, max_tokens=TOKENS, temperature=0.0, repeat_penalty=1.0)
            ended = out["choices"][0]["finish_reason"] == "stop"  # our count has the end token
            said.append((out["choices"][0]["text"], out["usage"]["completion_tokens"] + ended))
        return said

    return respond


ARMS: dict[str, Callable[[], Respond]] = {
    "ours, float32, one at a time": lambda: ours("float32", 1),
    f"ours, float32, {PROMPTS} together": lambda: ours("float32", PROMPTS),
    "ours, bfloat16, one at a time": lambda: ours("bfloat16", 1),
    f"ours, bfloat16, {PROMPTS} together": lambda: ours("bfloat16", PROMPTS),
    "llama.cpp, 4 bits, one at a time": llama_cpp,
}


def run_arm(name: str, threads: int) -> dict[str, Any]:
    """One timed run of an arm in this process: tokens per second, prompts read included, and the peak of memory."""
    torch.set_num_threads(threads)
    questions = split_questions(read_questions(paths.ROOT / "notebooks/data/questions.jsonl"))["validation"]
    prompts = list(draw_prompts(questions, n=PROMPTS, seed=0)["instruction"])
    respond = ARMS[name]()
    respond(prompts[:1])
    begun = time.perf_counter()
    said = respond(prompts)
    seconds = time.perf_counter() - begun
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9  # Linux counts in KiB
    return {"rate": sum(n for _, n in said) / seconds, "peak": peak, "texts": [text.strip() for text, _ in said]}


def measure(threads: int, repeats: int) -> list[dict[str, Any]]:
    """Every arm with its spread, and the share of its responses that are the first arm's.

    Raises TacitError where a run fails.
    """
    runs: dict[str, list[dict[str, Any]]] = {name: [] for name in ARMS}
    for _ in range(repeats):
        for name in ARMS:
            command = [sys.executable, __file__, "--arm", name, "--threads", str(threads)]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode:
                reason = (done.stderr.strip().splitlines() or [f"it ended with status {done.returncode}"])[-1]
                raise TacitError(f"{name} failed: {reason}")
            runs[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"{name}, {threads} threads: {runs[name][-1]['rate']:.0f} tokens/s", flush=True)
    first = runs[next(iter(ARMS))][0]["texts"]
    return [
        {"name": name, "threads": threads}
        | records.spread("rate", [run["rate"] for run in of_arm])
        | records.spread("peak_gb", [run["peak"] for run in of_arm])
        | {"equal_texts": sum(a == b for a, b in zip(of_arm[0]["texts"], first, strict=True)) / len(first)}
        for name, of_arm in runs.items()
    ]


def main(arguments: list[str] | None = None) -> int:
    """Measure, or run one arm for the process that measures."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--arm", choices=ARMS, help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.arm:
        print(json.dumps(run_arm(options.arm, options.threads[0])))
        return 0

    def work() -> Path:
        arms = [arm for threads in options.threads for arm in measure(threads, options.repeats)]
        about = {"model": MODEL, "prompts": PROMPTS, "tokens": TOKENS, "repeats": options.repeats}
        about["llama-cpp-python"] = importlib.metadata.version("llama-cpp-python")
        path = records.folder(dry=False) / f"peer-{records.device_slug()}.json"
        return records.write(path, records.heading(**about) | {"arms": arms})

    return records.run_script(work, dry=False)


if __name__ == "__main__":
    sys.exit(main())
