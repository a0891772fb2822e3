"""The synthesis engine: an independent loop of two models, the same rows however a run is cut, killed or spread."""

import contextlib
import hashlib
import json
import math
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import threading
import time
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import psutil
import pytest
import tacit
import torch
from conftest import SIZE, make_model
from datasets import Dataset, load_dataset
from huggingface_hub import DatasetCard
from scipy import stats
from tacit.__main__ import main
from tacit.data import sources
from tacit.models import loading
from tacit.models.chat import encode_prompt
from tacit.models.pairs import load_pair
from tacit.support import provenance
from tacit.support.errors import TacitError
from tacit.synthesis import engine, shards, workers
from tacit.synthesis.cards import UNFINISHED
from tacit.synthesis.engine import synthesize
from tacit.synthesis.workers import decode_in_parallel
from transformers import LlamaConfig

WORDS = "moon river stone garden window summer letter bread winter forest bridge paper".split()
INSTRUCTIONS = [
    {"id": f"row-{i}", "instruction": f"Say {' '.join(WORDS[: 1 + i * 5 % 12])} {i}.", "response": "unused"}
    for i in range(26)
]
MANY = [row | {"id": f"{row['id']}, {i}"} for i in range(3) for row in INSTRUCTIONS]
OPTIONS = {"max_new_tokens": 8, "batch_size": 4, "shard_size": 6, "say": None}
EXACT = ["id", "instruction", "response", "finish_reason", "prompt_tokens", "response_tokens"]
FORK = multiprocessing.get_context("forkserver")
FORK.set_forkserver_preload(["tacit.synthesis.engine", "conftest"])


@pytest.fixture(scope="module")
def pair(tokenizer, tmp_path_factory):
    """The folders of two tiny models; a twelfth of the vocabulary ends a response."""
    folders = {}
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    config = LlamaConfig(**(SIZE | {"vocab_size": len(tokenizer), "max_position_embeddings": 256} | ids))
    for seed, role in enumerate(("expert", "amateur")):
        model = make_model(config, seed=seed)
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(100, len(tokenizer), 12)]
        folders[role] = str(tmp_path_factory.mktemp(role))
        model.save_pretrained(folders[role])
        tokenizer.save_pretrained(folders[role])
    return folders


@pytest.fixture(autouse=True)
def own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))


def run(pair, out, rows=INSTRUCTIONS, **options):
    return synthesize(**pair, instructions=rows, out=out, **(OPTIONS | options))


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    """An uninterrupted run with the options of all: its folder and rows."""
    out = tmp_path_factory.mktemp("whole") / "out"
    return out, run(pair, out).to_list()


# The reference: no cache, no batch, no padding, float64, its own noise.


def draw(probabilities, seed, row, step):
    digest = hashlib.sha256(f"sample\x1f{seed}\x1f{row}\x1f{step}".encode()).digest()
    noise = (int.from_bytes(digest[:8], "big") // 2**11) / 2**53
    return int(np.searchsorted(np.cumsum(probabilities), noise * probabilities.sum(), side="right"))


def softmax(scores):
    shifted = np.exp(scores - scores.max())
    return shifted / shifted.sum()


def next_probabilities(expert, amateur, *, alpha, beta, temperature, top_p, contrast_end, ends):
    """The law of one token from both models' log-probabilities, [V] each."""
    plausible = np.exp(expert) >= alpha * np.exp(expert.max())
    scores = np.where(plausible, expert - beta * amateur, -np.inf)
    if not contrast_end:
        alone = softmax(np.where(plausible, expert, -np.inf))
        others = softmax(np.where(np.isin(np.arange(len(scores)), ends), -np.inf, scores))
        law = np.where(np.isin(np.arange(len(scores)), ends), alone, others * (1 - alone[ends].sum()))
        scores = np.log(np.maximum(law, 1e-300))
    if not temperature:
        return np.eye(len(scores))[scores.argmax()]
    law = softmax(scores / temperature)
    order = np.argsort(-law, kind="stable")
    needed = 1 + int(np.searchsorted(np.cumsum(law[order]), top_p - 1e-15))
    return np.where(np.isin(np.arange(len(law)), order[:needed]), law, 0.0) if top_p < 1 else law


def respond(models, tokenizer, row, *, seed, most, ends, **rule):
    """Tokens and log-ratios of one row."""
    ids, ratios = encode_prompt(tokenizer, row["instruction"]), []
    prompt = len(ids)
    for step in range(most):
        with torch.no_grad():
            both = [m(torch.tensor([ids]), use_cache=False).logits[0, -1].double() for m in models]
        expert, amateur = (torch.log_softmax(z, dim=-1).numpy() for z in both)
        token = draw(next_probabilities(expert, amateur, ends=ends, **rule), seed, row["id"], step)
        ids.append(token)
        ratios.append(expert[token] - amateur[token])
        if token in ends:
            break
    return ids[prompt:], ratios


DIRECT = {"alpha": 0.0, "beta": 0.0, "temperature": 1.0, "top_p": 1.0, "contrast_end": True}


@pytest.mark.parametrize(
    "rule",
    [
        {"alpha": 0.01, "beta": 1.0},
        {"alpha": 0.1, "beta": 0.5, "temperature": 0.7, "top_p": 0.8},
        {"alpha": 0.01, "beta": 1.0, "contrast_end": False},
        {"alpha": 0.0, "beta": 0.3},
        {"alpha": 0.1},
        {},
        {"alpha": 0.05, "beta": 1.0, "temperature": 0.0},
    ],
    ids=["codit", "nucleus", "end exempt", "no mask", "mask only", "direct", "greedy"],
)
def test_rows_are_those_of_a_loop_over_both_models(pair, tmp_path, rule):
    rule = DIRECT | rule
    expert, amateur, tokenizer = load_pair(**pair)
    ends = expert.generation_config.eos_token_id
    rows = INSTRUCTIONS[:12]
    made = run(pair, tmp_path / "out", rows, seed=5, log_ratios="tokens", **rule)
    assert made.column_names == [*EXACT, "mean_log_ratio", "tokens", "log_ratios"]
    for row, found in zip(rows, made, strict=True):
        tokens, ratios = respond((expert, amateur), tokenizer, row, seed=5, most=8, ends=ends, **rule)
        ended = tokens[-1] in ends
        assert found["tokens"] == tokens
        assert found["response"] == tokenizer.decode(tokens[:-1] if ended else tokens, skip_special_tokens=True)
        assert found["finish_reason"] == ("eos" if ended else "length")
        assert (found["id"], found["instruction"]) == (row["id"], row["instruction"])
        assert found["response_tokens"] == len(tokens)
        assert found["prompt_tokens"] == len(encode_prompt(tokenizer, row["instruction"]))
        np.testing.assert_allclose(found["log_ratios"], ratios, atol=2e-4)
        if len(tokens) == 1 and ended:
            assert found["mean_log_ratio"] is None
        else:
            assert found["mean_log_ratio"] == pytest.approx(np.mean(ratios), abs=2e-4)
    if rule["temperature"]:
        assert len(set(made["finish_reason"])) == 2


@pytest.mark.parametrize("contrast_end", [True, False], ids=["all contrasted", "end exempt"])
def test_first_tokens_follow_the_law(pair, tmp_path, contrast_end):
    """Chi-squared of sampled first tokens against the exact law in float64, end tokens among them."""
    n, rule = 2_000, {"alpha": 0.01, "beta": 1.0, "temperature": 1.0, "top_p": 1.0, "contrast_end": contrast_end}
    expert, amateur, tokenizer = load_pair(**pair)
    ends = expert.generation_config.eos_token_id
    rows = [{"id": i, "instruction": "Say moon."} for i in range(n)]
    made = run(
        pair, tmp_path / "out", rows, max_new_tokens=1, batch_size=500, shard_size=n, log_ratios="tokens", **rule
    )
    ids = torch.tensor([encode_prompt(tokenizer, "Say moon.")])
    with torch.no_grad():
        both = [torch.log_softmax(m(ids).logits[0, -1].double(), dim=-1).numpy() for m in (expert, amateur)]
    law = next_probabilities(*both, ends=ends, **rule)
    counts = np.bincount([row["tokens"][0] for row in made], minlength=len(law))
    assert counts[law == 0].sum() == 0
    likely = np.argsort(-law)[:25]
    assert set(ends) & set(likely.tolist())
    observed, expected = (np.append(x[likely], x.sum() - x[likely].sum()) for x in (counts, law * n))
    assert expected.min() > 5
    assert stats.chisquare(observed, expected).pvalue > 0.001
    other = next_probabilities(*both, ends=ends, **(rule | {"contrast_end": not contrast_end}))
    expected = np.append(other[likely], 1 - other[likely].sum()) * n
    assert stats.chisquare(observed, expected).pvalue < 1e-6  # the other law is told apart


def test_rules_differ_from_each_other(pair, tmp_path):
    rules = [{}, {"beta": 0.0}, {"beta": 0.0, "alpha": 0.0}, {"contrast_end": False}, {"seed": 1}, {"temperature": 0.5}]
    texts = [tuple(run(pair, tmp_path / str(i), **rule)["response"]) for i, rule in enumerate(rules)]
    assert len(set(texts)) == len(rules)


@pytest.mark.parametrize(("batch_size", "shard_size"), [(1, 26), (7, 4), (64, 100), (3, 1)])
def test_rows_depend_neither_on_batch_nor_on_shard_size(pair, whole, tmp_path, batch_size, shard_size):
    made = run(pair, tmp_path / "out", batch_size=batch_size, shard_size=shard_size).to_list()
    assert [[row[c] for c in EXACT] for row in made] == [[row[c] for c in EXACT] for row in whole[1]]
    ratios = [np.array([row["mean_log_ratio"] for row in rows], dtype=float) for rows in (made, whole[1])]
    np.testing.assert_allclose(*ratios, atol=1e-4)
    assert len(list((tmp_path / "out/data").iterdir())) == math.ceil(len(INSTRUCTIONS) / shard_size)


def test_rows_depend_on_their_ids_and_not_on_their_place(pair, whole, tmp_path):
    backwards = run(pair, tmp_path / "out", INSTRUCTIONS[::-1])
    assert backwards["response"] == [row["response"] for row in whole[1]][::-1]
    renamed = [row | {"id": f"other {i}"} for i, row in enumerate(INSTRUCTIONS)]
    assert run(pair, tmp_path / "renamed", renamed)["response"] != [row["response"] for row in whole[1]]


def test_the_folder_loads_as_it_is_and_its_card_counts(pair, whole):
    out, rows = whole
    found = load_dataset(str(out))
    assert list(found) == ["train"]
    assert found["train"].to_list() == rows
    assert [row["id"] for row in rows] == [row["id"] for row in INSTRUCTIONS]
    card = DatasetCard.load(out / "README.md")
    assert card.data.license_name == "to-be-filled-in"
    ended = sum(row["finish_reason"] == "eos" for row in rows)
    for name, value in {"rows": 26, "ended by an end token": ended, "alpha": "`0.01`", "beta": "`1.0`"}.items():
        assert f"| {name} | {value} |" in card.text
    mean = np.mean([row["response_tokens"] for row in rows])
    assert f"| mean response tokens | {mean:.2f} |" in card.text
    assert "p_expert >= 0.01 max p_expert" in card.text and "licence governs its outputs" in card.text
    parameters = json.loads((out / "synthesis.json").read_text())["parameters"]
    assert parameters["expert"] in card.text and parameters["expert"] != parameters["amateur"]


# Kills


def child(pair, out, rows, options, at):
    """A run in a process of its own that kills itself before it changes files the time ``at``; counts them if that is None.

    Counted are the beginning of a file, renames and removals; between two of them lies all that a kill could meet.
    """
    torch.set_num_threads(1)
    count, read = 0, Path.open

    def counted(act):
        def wrapper(*arguments, **named):
            nonlocal count
            if act is not read or "xb" in arguments:
                if count == at:
                    os.kill(os.getpid(), signal.SIGKILL)
                count += 1
            return act(*arguments, **named)

        return wrapper

    for module, name in (
        (os, "replace"),
        (os, "rename"),
        (os, "mkdir"),
        (os, "unlink"),
        (shutil, "rmtree"),
        (Path, "open"),
    ):
        setattr(module, name, counted(getattr(module, name)))
    Path(f"{out}.began").touch()
    run(pair, out, rows, **options)
    Path(f"{out}.count").write_text(str(count))


def start(pair, out, rows=INSTRUCTIONS, *, at=None, **options):
    process = FORK.Process(target=child, args=(pair, out, rows, options, at))
    process.start()
    return process


def check_what_is_seen(out, rows):
    """``load_dataset`` sees all rows or fails."""
    if not (out / "data").exists():
        with pytest.raises((FileNotFoundError, datasets.exceptions.DatasetNotFoundError)):
            load_dataset(str(out))
    else:
        assert load_dataset(str(out), split="train").to_list() == rows


def check_mended(pair, out, whole, **options):
    """A run to the end gives the uninterrupted run's files, byte by byte, and leaves nothing else."""
    assert run(pair, out, **options).to_list() == whole[1]
    assert contents(out) == contents(whole[0])
    assert sorted(p.name for p in (out / ".synthesis").iterdir()) in (["data", "lock", "records"], ["lock", "records"])


def contents(out):
    """The dataset's files; left out are what made them (the device's threads may differ) and what instructions were called."""
    files = {p.relative_to(out).as_posix(): p.read_bytes() for p in out.rglob("*") if p.is_file()}
    record = json.loads(files.pop("synthesis.json"))
    lines = files.pop("README.md").splitlines()
    card = [line for line in lines if not line.startswith((b"| made with", b"| instructions"))]
    return {k: v for k, v in files.items() if not k.startswith(".")} | {
        "parameters": record["parameters"],
        "card": card,
    }


@pytest.mark.slow
@pytest.mark.parametrize("damaged", [False, True], ids=["fresh", "damaged"])
def test_a_run_killed_at_any_file_operation_is_taken_up(pair, tmp_path, damaged):
    rows, options = INSTRUCTIONS[:4], {"max_new_tokens": 4, "shard_size": 2}
    reference = tmp_path / "reference"
    expected = run(pair, reference, rows, **options).to_list()

    def begin(out, at):
        if damaged:
            shutil.copytree(reference, out)
            (out / "data/train-00001-of-00002.parquet").unlink()
        process = start(pair, out, rows, at=at, **options)
        process.join()
        return process.exitcode

    assert begin(tmp_path / "whole", None) == 0
    n = int((tmp_path / "whole.count").read_text())
    assert n > 12
    for at in range(n):
        out = tmp_path / f"killed {at}"
        assert begin(out, at) == -signal.SIGKILL, at
        if not damaged or not (out / "data").exists() or len(list((out / "data").iterdir())) == 2:
            check_what_is_seen(out, expected)
        assert run(pair, out, rows, **options).to_list() == expected, at
        assert contents(out) == contents(reference), at
        assert not list(out.rglob("*.tmp")), at


@pytest.mark.slow
def test_a_run_killed_at_ten_random_moments_gives_the_same_bytes(pair, tmp_path):
    rows = MANY

    def begin(out):
        process = start(pair, out, rows)
        wait_for(lambda: Path(f"{out}.began").exists() or not process.is_alive())
        return process, time.monotonic()

    process, began = begin(tmp_path / "uninterrupted")
    process.join()
    duration = time.monotonic() - began
    expected = run(pair, tmp_path / "uninterrupted", rows).to_list()
    assert [row["id"] for row in expected] == [row["id"] for row in rows]
    moments, records = random.Random(7), []
    for number in range(10):
        out = tmp_path / f"killed {number}"
        process, _ = begin(out)
        process.join(timeout=moments.uniform(0, duration))
        if process.is_alive():
            process.kill()
            process.join()
            records.append(recorded(out))
        if out.exists():
            check_what_is_seen(out, expected)
        assert run(pair, out, rows).to_list() == expected
        assert contents(out) == contents(tmp_path / "uninterrupted")
        assert not list(out.rglob("*.tmp"))
    assert len(records) >= 5
    print("shards of 13 recorded at each kill:", records)


def wait_for(condition, *, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited in vain"
        time.sleep(0.01)


def recorded(out):
    return len(list((out / ".synthesis/records").glob("*.json")))


def command(pair, out, instructions, *more):
    where = [
        "--expert",
        pair["expert"],
        "--amateur",
        pair["amateur"],
        "--instructions",
        str(instructions),
        "--out",
        str(out),
    ]
    sizes = ["--max-new-tokens", "8", "--batch-size", "4", "--shard-size", "6"]
    return ["synthesize", *where, *sizes, *more]


@pytest.fixture
def instructions_file(tmp_path):
    path = tmp_path / "instructions.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in INSTRUCTIONS))
    return path


@pytest.mark.slow
def test_the_command_killed_and_run_again(pair, whole, tmp_path, instructions_file, capsys):
    out = tmp_path / "out"
    arguments = command(pair, out, instructions_file)
    with subprocess.Popen([sys.executable, "-m", "tacit", *arguments], stdout=subprocess.PIPE, text=True) as process:
        wait_for(lambda: recorded(out) >= 2 or process.poll() is not None)
        process.kill()
    assert recorded(out) < 5
    assert not (out / "data").exists()
    assert main(arguments) == 0
    said = capsys.readouterr().out
    assert "26 rows are in" in said and "tokens/s" in said
    assert contents(out) == contents(whole[0])
    shutil.rmtree(out)
    assert main([*arguments, "--quiet", "--no-mask", "--beta", "0", "--log-ratios", "tokens", "--no-contrast-end"]) == 0
    captured = capsys.readouterr()
    assert (captured.out, captured.err) == ("", "")
    assert "tokens" in load_dataset(str(out), split="train").column_names


# Damage


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


KINDS = ["corrupt", "truncated", "deleted", "swapped", "swapped with its record", "no record", "bad record"]


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_shards_are_named_and_made_again(pair, whole, tmp_path, kind):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    kept = {p.name: p.stat().st_mtime_ns for p in (out / "data").iterdir()}
    names, said = damage(out, kind), []
    check_mended(pair, out, whole, say=said.append)
    assert [text.split()[0] for text in said if "made again" in text] == sorted(names)
    touched = {p.name for p in (out / "data").iterdir() if p.stat().st_mtime_ns != kept[p.name]}
    assert touched == set(names)


def test_a_finished_run_decodes_nothing_and_keeps_the_filled_in_card(pair, whole, tmp_path, monkeypatch):
    out, said = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    (out / "README.md").write_text("licence filled in")
    monkeypatch.setattr(engine, "make_decoder", None)
    assert run(pair, out, say=said.append, batch_size=9, shard_size=1).to_list() == whole[1]
    assert (out / "README.md").read_text() == "licence filled in"
    assert "6 rows per shard" in said[0]


@pytest.mark.parametrize("elsewhere", [False, True], ids=["same rows", "other environment"])
def test_a_licence_filled_in_stays_when_a_shard_is_made_again(pair, whole, tmp_path, monkeypatch, elsewhere):
    out, said = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    card = (out / "README.md").read_text().replace("license: other", "license: cc-by-4.0\npretty_name: Moons")
    card = card.replace("license_name: to-be-filled-in\n", "") + "\nBy hand.\n"
    (out / "README.md").write_text(card)
    damage(out, "deleted")
    with monkeypatch.context() as patch:
        patch.setattr(engine, "make_decoder", lambda **_: 1 / 0)
        with pytest.raises(ZeroDivisionError):
            run(pair, out)
    assert (out / "README.md").read_text() == UNFINISHED
    if elsewhere:
        monkeypatch.setattr(provenance, "device_name", lambda: "abacus")
    run(pair, out, say=said.append)
    if elsewhere:
        found = DatasetCard.load(out / "README.md")
        assert found.data.license == "cc-by-4.0" and "license_name" not in found.data
        assert found.data.pretty_name == "Moons" and found.data.configs[0]["data_files"][0]["path"] == "data/train-*"
        assert "filled in" not in found.text and "abacus" in found.text and "By hand" not in found.text
        assert (out / ".synthesis/card.md").read_text() == card
        assert any(str(out / ".synthesis/card.md") in text for text in said)
    else:
        assert (out / "README.md").read_text() == card
        assert not (out / ".synthesis/card.md").exists()


def made_with(out):
    return [json.loads(path.read_text())["made_with"] for path in sorted((out / ".synthesis/records").iterdir())]


def test_environments_are_noted_with_each_shard_and_others_are_named(pair, whole, tmp_path, monkeypatch):
    packages = provenance.packages()
    ours = packages | {"device": provenance.device_name(), "tacit": provenance.method_hash()}
    assert made_with(whole[0]) == [ours] * 5
    assert json.loads((whole[0] / "synthesis.json").read_text())["made_with"] == [ours]
    out, said = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    damage(out, "deleted")
    run(pair, out, say=said.append)
    assert not [text for text in said if "another environment" in text]
    damage(out, "deleted")
    monkeypatch.setattr(provenance, "device_name", lambda: "abacus")
    monkeypatch.setattr(provenance, "packages", lambda: packages | {"torch": "9.9"})
    run(pair, out, say=said.append)
    assert made_with(out) == [ours, other := ours | {"device": "abacus", "torch": "9.9"}, ours, ours, ours]
    differ = f"torch {ours['torch']} then, 9.9 now, device {ours['device']} then, abacus now"
    assert [text for text in said if "another environment" in text and text.endswith(differ)]
    assert json.loads((out / "synthesis.json").read_text())["made_with"] == [ours, other]
    card = (out / "README.md").read_text()
    assert "| made with (1) |" in card and "| made with (2) |" in card and "device abacus" in card


def test_a_folder_that_noted_one_environment_is_taken_up(pair, whole, tmp_path):
    """As synthesis.json had it before each shard's record did."""
    out, said = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    settings = json.loads((out / "synthesis.json").read_text())
    (out / "synthesis.json").write_text(json.dumps(settings | {"made_with": {"torch": "1.0"}}))
    for path in (out / ".synthesis/records").iterdir():
        record = json.loads(path.read_text())
        del record["made_with"]
        path.write_text(json.dumps(record))
    damage(out, "deleted")
    run(pair, out, say=said.append)
    assert contents(out) == contents(whole[0])
    assert any("torch 1.0 then" in text and "device unknown then" in text for text in said)


def test_the_card_names_sources_and_no_absolute_path(pair, tmp_path, instructions_file):
    assert main([*command(pair, tmp_path / "out", instructions_file), "--no-contrast-end", "--quiet"]) == 0
    card = (tmp_path / "out/README.md").read_text()
    assert "| instructions | `instructions.jsonl` (`" in card
    assert f"| expert | `{Path(pair['expert']).name}` (`" in card and str(tmp_path.parent) not in card
    assert "at temperature 1, among the plausible tokens" in card
    assert f"torch {torch.__version__.split('+')[0]}" in card and f"device {provenance.device_name()}" in card
    assert sources.source_name("jsonl:/somewhere/deep/x.jsonl[:9]") == "jsonl:x.jsonl[:9]"
    assert sources.source_name("alpaca:tatsu-lab/alpaca[:9]") == "alpaca:tatsu-lab/alpaca[:9]"


def test_a_first_card_is_written_without_a_warning(pair, tmp_path, monkeypatch):
    from huggingface_hub import repocard

    said = []
    monkeypatch.setattr(repocard.logger, "warning", said.append)
    synthesize(**pair, instructions=INSTRUCTIONS[:2], out=tmp_path / "new", **OPTIONS)
    assert said == []


def test_the_card_says_that_instructions_were_given_in_python_unless_named(pair, whole, tmp_path):
    assert "| instructions | `given in Python` (`" in (whole[0] / "README.md").read_text()
    run(pair, tmp_path / "out", INSTRUCTIONS[:2], instructions_name="two of mine")
    assert "| instructions | `two of mine` (`" in (tmp_path / "out/README.md").read_text()


def test_leftovers_of_a_killed_run_are_removed_and_strangers_are_not(pair, whole, tmp_path):
    out = tmp_path / "out"
    shutil.copytree(whole[0], out)
    (out / ".synthesis/abc.tmp").write_text("half a file")
    check_mended(pair, out, whole)
    (out / "data/train-00005-of-00006.parquet").write_text("not ours")
    with pytest.raises(TacitError, match=r"train-00005-of-00006\.parquet is no part of this synthesis"):
        run(pair, out)


@pytest.mark.parametrize(
    "other",
    [
        {"alpha": 0.1},
        {"beta": 0.5},
        {"temperature": 0.5},
        {"top_p": 0.9},
        {"contrast_end": False},
        {"log_ratios": "tokens"},
        {"seed": 1},
        {"max_new_tokens": 9},
        {"dtype": "bfloat16"},
        {"chat_template": "{{ messages[0]['content'] }}"},
    ],
    ids=lambda other: next(iter(other)),
)
def test_other_parameters_are_refused_by_name(pair, whole, other):
    before = contents(whole[0])
    with pytest.raises(TacitError, match=f"holds a synthesis with {next(iter(other))} .*choose another --out"):
        run(pair, whole[0], **other)
    assert contents(whole[0]) == before


@pytest.mark.parametrize("name", ["batch_size", "shard_size"])
def test_sizes_are_parameters_where_rounding_changes_texts(pair, tmp_path, name):
    out, options = tmp_path / "out", {"dtype": "bfloat16", "max_new_tokens": 2}
    rows = run(pair, out, INSTRUCTIONS[:3], **options).to_list()
    with pytest.raises(TacitError, match=f"holds a synthesis with {name} {OPTIONS[name]}, not 5: choose another --out"):
        run(pair, out, INSTRUCTIONS[:3], **options, **{name: 5})
    assert run(pair, out, INSTRUCTIONS[:3], **options).to_list() == rows


@pytest.mark.parametrize("n_workers", [1, 2])
def test_models_of_the_hub_are_loaded_at_the_commit_that_is_noted(pair, tmp_path, monkeypatch, n_workers):
    """A branch that moves between the look-up and the loading changes nothing."""
    commits, loaded = {"me/expert": "e" * 40, "me/amateur": "a" * 40}, []

    def look_up(name, revision):
        assert revision == {"me/expert": "main", "me/amateur": "v1"}[name]
        return {"name": name, "commit": commits[name]}

    def here(load):
        def loader(name, *, revision=None, **options):
            loaded.append((getattr(load, "__name__", "config"), name, revision))
            return load(pair[name.removeprefix("me/")], **options)

        return loader

    monkeypatch.setattr(engine, "weights_key", look_up)
    monkeypatch.setattr(engine, "locate", lambda name: name)
    config = SimpleNamespace(from_pretrained=here(partial(engine.AutoConfig.from_pretrained)))
    monkeypatch.setattr(engine, "AutoConfig", config)
    monkeypatch.setattr(engine, "load_tokenizer", here(loading.load_tokenizer))
    monkeypatch.setattr(loading, "load_tokenizer", here(loading.load_tokenizer))
    monkeypatch.setattr(loading, "load_model", here(loading.load_model))
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))
    options = OPTIONS | {"amateur_revision": "v1", "workers": n_workers}
    synthesize("me/expert@main", "me/amateur", INSTRUCTIONS[:3], out=tmp_path / "out", **options)
    assert {what for what, *_ in loaded} == {"load_tokenizer", "load_model", "config"}
    assert all(revision == commits[name] for _, name, revision in loaded)
    card = (tmp_path / "out/README.md").read_text()
    assert f"| expert | `me/expert` (`me/expert@{'e' * 40}`) |" in card


def test_other_models_and_instructions_are_refused_by_name(pair, whole):
    with pytest.raises(TacitError, match="with instructions"):
        run(pair, whole[0], INSTRUCTIONS[:-1])
    with pytest.raises(TacitError, match="with expert"):
        synthesize(pair["amateur"], pair["amateur"], INSTRUCTIONS, out=whole[0], **OPTIONS)
    with pytest.raises(TacitError, match="with amateur"):
        synthesize(pair["expert"], pair["expert"], INSTRUCTIONS, out=whole[0], **OPTIONS)


def test_the_same_weights_elsewhere_are_the_same_models(pair, whole, tmp_path):
    for role, folder in pair.items():
        shutil.copytree(folder, tmp_path / role)
    moved = {role: str(tmp_path / role) for role in pair}
    assert run(moved, whole[0], INSTRUCTIONS).to_list() == whole[1]


def test_a_folder_in_which_nothing_was_made_takes_other_parameters(pair, whole, tmp_path, monkeypatch):
    def fail(**options):
        raise TacitError("the pair does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "make_decoder", fail)
        with pytest.raises(TacitError, match="does not fit"):
            run(pair, tmp_path / "out", alpha=0.2)
    check_mended(pair, tmp_path / "out", whole)


def test_foreign_and_unwritable_folders_are_refused(pair, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(TacitError, match="not empty and no synthesis made it here"):
        run(pair, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["thesis.txt"]
    with pytest.raises(TacitError, match="cannot write to"):
        run(pair, tmp_path / "mine/thesis.txt")
    with pytest.raises(TacitError, match="cannot write to"):
        run(pair, tmp_path / "mine/thesis.txt/out")


def test_a_full_disk_is_explained_and_survived(pair, whole, tmp_path, monkeypatch):
    calls = []

    def full(handle):
        calls.append(handle)
        if len(calls) == 12:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(TacitError, match="No space left on device"):
            run(pair, tmp_path / "out")
    check_mended(pair, tmp_path / "out", whole)


def hold_still(out, release):
    with shards.hold(out):
        Path(f"{out}.held").touch()
        release.wait(60)


def test_a_second_process_is_refused_while_the_first_is_at_work(pair, whole, tmp_path):
    out, release = tmp_path / "out", FORK.Event()
    process = FORK.Process(target=hold_still, args=(out, release))
    process.start()
    wait_for(Path(f"{out}.held").exists)
    with pytest.raises(TacitError, match="another process is at work in"):
        run(pair, out)
    release.set()
    process.join()
    check_mended(pair, out, whole)


# Errors for people


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha must be from 0"),
        ({"alpha": -0.1}, "alpha must be from 0"),
        ({"alpha": float("nan")}, "alpha must be from 0"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"beta": float("inf")}, "beta must be at least 0"),
        ({"temperature": -1.0}, "temperature must be at least 0"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"shard_size": 0}, "shard_size must be an integer"),
        ({"workers": 0}, "workers must be an integer"),
        ({"ray_address": "far:6379"}, r"ray_address \(far:6379\) needs workers above 1, and workers is 1"),
        ({"dtype": "float8"}, "unknown dtype"),
        ({"max_new_tokens": 250}, "exceeds the expert's context of 256: lower max_new_tokens"),
        ({"expert": "outputs/models/nowhere"}, "no checkpoint at outputs/models/nowhere"),
        ({"rows": []}, "no instructions"),
        ({"rows": [{"instruction": "Hi"}]}, "row 0 .*: needs 'id'"),
        ({"rows": [{"id": "a"}]}, "row 0 .*: needs 'instruction'"),
        ({"rows": [{"id": "a", "instruction": 3}]}, "row 0 .*: needs a text"),
        ({"rows": [{"id": 1, "instruction": "Hi"}, {"id": "1", "instruction": "Ho"}]}, "id '1' occurs twice"),
    ],
)
def test_what_cannot_be_done_is_said(pair, tmp_path, options, message):
    with pytest.raises(TacitError, match=message):
        run(
            pair | {k: v for k, v in options.items() if k == "expert"},
            tmp_path / "out",
            options.pop("rows", INSTRUCTIONS[:3]),
            **{k: v for k, v in options.items() if k != "expert"},
        )


def test_a_pair_of_different_vocabularies_is_refused(pair, tmp_path):
    other = str(tacit.support.paths.MODELS / "micro-base")
    with pytest.raises(TacitError, match="vocabularies differ"):
        synthesize(pair["expert"], other, INSTRUCTIONS[:3], out=tmp_path / "out", **OPTIONS)


def test_the_command_explains_and_exits_with_2(pair, tmp_path, instructions_file, capsys):
    def refused(*arguments):
        assert main([*arguments]) == 2
        captured = capsys.readouterr()
        assert captured.err.startswith("error: ") and captured.out == ""
        return captured.err

    assert "nothing.jsonl" in refused(*command(pair, tmp_path / "out", tmp_path / "nothing.jsonl"))
    assert "alpha" in refused(*command(pair, tmp_path / "out", instructions_file, "--alpha", "2"))
    assert "unknown source" in refused(*command(pair, tmp_path / "out", "nowhere:at/all"))
    assert "name:place, here alpaca:tatsu-lab/alpaca," in refused(*command(pair, tmp_path / "out", "tatsu-lab/alpaca"))
    assert "here NAME:me/mine@" in refused(*command(pair, tmp_path / "out", f"me/mine@{'0' * 40}"))
    assert "cannot read me/mine.jsonl" in refused(*command(pair, tmp_path / "out", "me/mine.jsonl"))
    assert "--ray-address" in refused(*command(pair, tmp_path / "out", instructions_file, "--ray-address", "far:6379"))
    assert "--chat-template" in refused(
        *command(pair, tmp_path / "out", instructions_file, "--chat-template", "no.jinja")
    )
    empty = tmp_path / "empty.jsonl"
    empty.write_text("\n")
    assert "holds no instructions" in refused(*command(pair, tmp_path / "out", empty))
    assert not (tmp_path / "out").exists()


def test_instructions_come_from_files_and_sources(tmp_path, instructions_file):
    assert sources.load_instructions(str(instructions_file))["id"] == [row["id"] for row in INSTRUCTIONS]
    assert len(sources.load_instructions(f"jsonl:{instructions_file}[:3]")) == 3
    assert engine.read_rows(Dataset.from_list(INSTRUCTIONS))[2] == ("row-2", INSTRUCTIONS[2]["instruction"])


def test_repeated_rows_get_ids_of_their_own_and_given_ids_stay_unique(tmp_path):
    def read(*rows):
        (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        return sources.load_instructions(str(tmp_path / "rows.jsonl"))["id"][:]

    hi, ho = {"instruction": "Hi"}, {"instruction": "Ho"}
    alone, other = read(hi, ho)
    assert alone == engine.fingerprint(["Hi", ""])[:16]
    assert read(hi, ho, hi, hi) == [alone, other, f"{alone}-2", f"{alone}-3"]
    for given in ("x", alone, f"{alone}-2"):
        with pytest.raises(TacitError, match=f"id '{given}' occurs twice"):
            read(hi, hi, hi | {"id": given}, hi | {"id": given})
    with pytest.raises(TacitError, match="occurs twice"):
        read(hi, hi, ho | {"id": f"{alone}-2"})


def test_importing_tacit_stays_light():
    code = "import sys, tacit; print(*sorted({'torch', 'transformers', 'datasets', 'ray'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""
    assert tacit.synthesize is synthesize
    with pytest.raises(AttributeError, match="no attribute 'synthesise'"):
        tacit.synthesise  # noqa: B018


def test_progress_counts_useful_tokens_now_and_then(monkeypatch):
    clock, said = iter([0.0, 1.0, 4.0, 10.0, 11.0]), []
    monkeypatch.setattr(engine.time, "monotonic", lambda: next(clock))
    tick = engine.progress(said.append, total=200)
    for rows, tokens in ((10, 100), (40, 300), (50, 600), (100, 100)):
        tick(rows, tokens)
    assert said == ["100/200 rows, 100 tokens/s, 0 min 10 s left", "200/200 rows, 100 tokens/s, 0 min 0 s left"]


# The hub


class Hub:
    """What the engine uses of ``HfApi``."""

    def __init__(self, error=None):
        self.calls, self.error = [], error

    def create_repo(self, repo, **options):
        if self.error:
            raise self.error
        self.calls.append((repo, options))

    def upload_folder(self, **options):
        self.calls.append(options)


def test_pushing_is_asked_for_and_leaves_out_the_hidden_folder(pair, whole, tmp_path, monkeypatch):
    out, hub = tmp_path / "out", Hub()
    shutil.copytree(whole[0], out)
    monkeypatch.setattr(engine, "HfApi", lambda: hub)
    run(pair, out)
    assert hub.calls == []
    run(pair, out, push_to_hub="me/mine")
    assert hub.calls[0] == ("me/mine", {"repo_type": "dataset", "private": True, "exist_ok": True})
    assert hub.calls[1]["folder_path"] == out and hub.calls[1]["ignore_patterns"] == [".synthesis/**"]
    monkeypatch.setattr(engine, "HfApi", lambda: Hub(OSError("no token")))
    with pytest.raises(TacitError, match=r"cannot upload to me/mine \(OSError: no token\).*hf auth login"):
        run(pair, out, push_to_hub="me/mine")


# Ray


def ray_workers():
    """The worker processes of Ray below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        try:
            if "ShardWorker" in " ".join(process.cmdline()):
                found.append(process)
        except psutil.Error:
            continue
    return found


@pytest.mark.slow
def test_two_workers_one_of_them_killed_make_the_same_rows(pair, tmp_path, capfd):
    out, killed, said = tmp_path / "out", [], []
    expected = run(pair, tmp_path / "alone", MANY).to_list()

    def kill():
        found = []
        while not recorded(out):
            found = found if len(found) == 2 else ray_workers()
            time.sleep(0.005)
        found[0].kill()
        killed.append(recorded(out))

    killer = threading.Thread(target=kill, daemon=True)
    killer.start()
    rows = run(pair, out, MANY, shard_size=1, workers=2, say=said.append)
    killer.join(10)
    print("shards of 78 recorded when a worker was killed:", killed)
    assert len(killed) == 1 and killed[0] < len(MANY)
    assert [[row[c] for c in EXACT] for row in rows.to_list()] == [[row[c] for c in EXACT] for row in expected]
    assert len(list((out / "data").iterdir())) == len(MANY)
    assert said[-2].startswith("78/78 rows")
    wait_for(lambda: not ray_workers())
    assert "Traceback" not in capfd.readouterr().err


class RayHere:
    """What the engine uses of Ray, in this process: shards one after the other by the class and arguments it was given."""

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


def test_an_error_in_a_worker_is_the_same_error(pair, whole, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))
    assert run(pair, tmp_path / "fine", workers=2).to_list() == whole[1]
    other = str(tacit.support.paths.MODELS / "micro-base")
    with pytest.raises(TacitError, match="vocabularies differ"):
        synthesize(pair["expert"], other, INSTRUCTIONS[:3], out=tmp_path / "other", workers=2, **OPTIONS)

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(TacitError, match="No space left on device"):
        decode_in_parallel(
            {0: [("a", "Hi")]},
            partial(engine.write_rows, tmp_path / "fine", keys=["a"], run="b"),
            {"models": pair, "batch_size": 4} | {**DIRECT, "seed": 0, "max_new_tokens": 2, "log_ratios": "mean"},
            workers=2,
            address=None,
            out=tmp_path / "fine",
            n=1,
            tick=lambda *_: None,
        )


PARALLEL = {"workers": 2, "address": None, "out": Path(), "n": 1, "tick": None}


def test_without_ray_the_message_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(TacitError, match=r"pip install 'ray\[data\]'"):
        decode_in_parallel({0: [("a", "Hi")]}, None, {}, **PARALLEL)


def test_an_unreachable_cluster_is_explained(monkeypatch):
    import ray

    def refuse(**options):
        assert options["address"] == "far:6379" and "num_cpus" not in options
        raise ConnectionError("nobody there")

    monkeypatch.setattr(ray, "init", refuse)
    with pytest.raises(TacitError, match=r"nobody there.*ray_address"):
        decode_in_parallel({0: [("a", "Hi")]}, None, {}, **PARALLEL | {"address": "far:6379"})


class Died(BaseException):
    """What ends a worker's process, in this one."""


def test_a_shard_whose_worker_always_dies_is_given_up_by_name(tmp_path, monkeypatch):
    deaths, batch = [], {"index": [1], "name": ["train-00001-of-00002.parquet"], "rows": ['[["a", "Hi"]]']}

    def decode(rows):
        deaths.append(rows)
        raise Died

    monkeypatch.setattr(engine, "make_decoder", lambda: decode)
    with shards.hold(tmp_path / "out"):
        for _ in range(3):
            with pytest.raises(Died):
                workers.ShardWorker({}, None, 0, tmp_path / "out", 3)(batch)
        record = workers.ShardWorker({}, None, 0, tmp_path / "out", 3)(batch)
    assert len(deaths) == 3
    assert (
        record["rows"] == [0] and "train-00001-of-00002.parquet: the worker that made it died, 3" in record["error"][0]
    )
    monkeypatch.setattr(engine, "make_decoder", lambda: lambda rows: [{"response_tokens": 5}])
    with shards.hold(tmp_path / "out"):  # a new run tries anew, and deaths count only until a shard is made
        for _ in range(5):
            worker = workers.ShardWorker({}, lambda *_: None, 0, tmp_path / "out", 3)
            assert worker(batch) == {"rows": [1], "tokens": [5], "error": [""], "trace": [""]}


def test_workers_that_die_while_they_load_are_given_up(tmp_path, monkeypatch):
    def load():
        raise Died

    monkeypatch.setattr(engine, "make_decoder", load)
    batch = {"index": [0], "name": ["train-00000-of-00001.parquet"], "rows": ["[]"]}
    with shards.hold(tmp_path / "out"):
        for _ in range(6):
            with pytest.raises(Died):
                workers.ShardWorker({}, None, 0, tmp_path / "out", 6)
        assert "died 6 times" in workers.ShardWorker({}, None, 0, tmp_path / "out", 6)(batch)["error"][0]


def test_any_error_in_a_worker_is_explained_with_its_shard(pair, tmp_path, monkeypatch):
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))

    def fail(*_, **__):
        raise RuntimeError("out of memory\nat length")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "generate_responses", fail)
        with pytest.raises(
            TacitError, match=r"making train-00000-of-00005\.parquet failed: RuntimeError: out of memory"
        ) as e:
            run(pair, tmp_path / "out", workers=2)
        assert "\n" not in str(e.value) and "in fail" in e.value.__notes__[0]
    with monkeypatch.context() as patch:
        patch.setattr(engine, "load_pair", fail)
        with pytest.raises(TacitError, match=r"loading the pair failed: RuntimeError: out of memory\n"):
            run(pair, tmp_path / "out", workers=2)
    monkeypatch.setattr(RayHere.data, "map_batches", lambda *_, **__: SimpleNamespace(iter_rows=fail))
    with pytest.raises(TacitError, match=r"Ray failed \(RuntimeError: out of memory\): finished shards are kept"):
        run(pair, tmp_path / "out", workers=2)
