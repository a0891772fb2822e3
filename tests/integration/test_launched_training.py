"""Two gloo processes on a CPU train as one does: the same batches, the same loss curve, the same weights."""

import json
import os
import sys
from pathlib import Path

import launched_training
import processes
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from conftest import llama_config, make_model
from tacit.__main__ import main
from tacit.data.instructions import read_instructions
from tacit.models.loading import load_model, load_tokenizer
from tacit.running.parameters import read_params
from tacit.support.errors import TacitError
from tacit.training import finetuning
from tacit.training.finetuning import finetune
from tacit.training.processes import RankBatches

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "params/accelerate"


@pytest.fixture(scope="module")
def folder(tmp_path_factory, tokenizer):
    """A tiny checkpoint and nine examples of one to sixteen words: two batches of four and one left over."""
    folder = tmp_path_factory.mktemp("checkpoint")
    make_model(llama_config(tokenizer), seed=0).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    words = ["moon", "sea", "key", "rain", "bell", "king", "boat", "hill", "star"]
    rows = [{"instruction": f"Say {w}.", "response": " ".join([w] * (1 + 5 * (i % 4)))} for i, w in enumerate(words)]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def alone(folder):
    return launched_training.run_all(folder)


def launch(config, *arguments):
    """Run a program in two CPU processes under ``accelerate launch`` with one of the repository's configurations."""
    environment = os.environ | {"OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = os.pathsep.join([str(ROOT / "lib"), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / config)]
    command += ["--num_processes", "2", "--main_process_port", "0", *map(str, arguments)]
    return processes.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)


def weights(model):
    return torch.cat([p.detach().float().flatten() for p in model.parameters()])


def command(folder, out, *others):
    options = {"--model": folder, "--examples": folder / "examples.jsonl", "--out": out, "--epochs": 2}
    options |= {"--learning-rate": 1e-3, "--batch-size": 4, "--max-length": 64, "--seed": 3}
    return ["finetune", *(str(part) for pair in options.items() for part in pair), *others]


@pytest.fixture(scope="module")
def launched(folder, tmp_path_factory):
    """What each kind of two processes leaves behind: its folder and what it said. Each is launched once."""
    done = {}

    def get(kind):
        if kind not in done:
            out = tmp_path_factory.mktemp(kind)
            config = {"ddp": "cpu-2.yaml", "fsdp": "fsdp2-1x8.yaml"}[kind]
            then = command(folder, out / "command", "--packing", "--micro-batch", "2") if kind == "ddp" else []
            ran = launch(config, ROOT / "tests/integration/launched_training.py", folder, out, kind, *then)
            assert ran.returncode == 0, ran.stderr[-3000:]
            done[kind] = (out, ran.stdout)
        return done[kind]

    return get


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_have_the_loss_curve_and_the_weights_of_one(kind, folder, alone, launched):
    out, _ = launched(kind)
    other = "meta" if kind == "fsdp" else "cpu"  # a shard's process does not get the whole model
    assert [(out / f"process-{i}.txt").read_text() for i in (0, 1)] == ["cpu", other]
    losses = json.loads((out / "losses.json").read_text())
    before = weights(load_model(str(folder), device="cpu"))
    assert set(alone) - set(losses) <= {"lora"}  # which is not sharded
    for name, (model, curve) in alone.items():
        if name not in losses:
            continue
        assert len(curve) == 6  # three steps an epoch, the last of one example, so that a process has none
        rounded = name == "bf16" and kind == "fsdp"  # FSDP multiplies and adds in bf16 where autocast adds in float32
        assert losses[name] == pytest.approx(curve, rel=1e-2 if rounded else 1e-5), name
        tuned = weights(load_model(str(out / name), device="cpu"))
        moved = (weights(model) - before).abs().mean()
        assert (tuned - weights(model)).abs().mean() < (0.1 if rounded else 1e-4) * moved, name


@pytest.mark.slow
def test_the_command_saves_the_same_model_from_one_process_and_from_two(folder, launched, tmp_path, capsys):
    assert main(command(folder, tmp_path / "one", "--packing", "--micro-batch", "2")) == 0
    assert "epoch 2: loss" in capsys.readouterr().out
    out, said = launched("ddp")
    assert said.count("epoch 2: loss") == 1  # the main process alone speaks and writes
    assert not (out / "command.partial").exists() and (out / "command/model.safetensors").is_file()
    folders = (tmp_path / "one", out / "command")
    one, two = (json.loads((path / "finetuning.json").read_text()) for path in folders)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert one["packing"] is True and one["micro_batch"] == 2 and one["batch_size"] == 4
    assert [row["loss"] for row in two["history"]] == pytest.approx([row["loss"] for row in one["history"]], rel=1e-3)
    models = [load_model(str(path), device="cpu") for path in folders]
    assert (weights(models[0]) - weights(models[1])).abs().mean() < 1e-5
    assert models[0].config.use_cache is True
    assert load_tokenizer(str(folders[1])).chat_template == load_tokenizer(str(folder)).chat_template


def test_the_command_is_finetune(folder, tmp_path):
    """With the settings of the command the function gives the weights that the command saves, rounded likewise."""
    assert main(command(folder, tmp_path / "out", "--dtype", "bfloat16", "--optimizer", "adamw-master", "--quiet")) == 0
    saved = load_model(str(tmp_path / "out"), dtype="auto", device="cpu")
    assert saved.dtype == torch.bfloat16
    settings = {"epochs": 2, "learning_rate": 1e-3, "batch_size": 4, "max_length": 64, "seed": 3}
    base, examples = (
        load_model(str(folder), dtype="bfloat16", device="cpu"),
        read_instructions(folder / "examples.jsonl"),
    )
    tuned, _ = finetune(base, load_tokenizer(str(folder)), examples, optimizer="adamw-master", **settings)
    assert torch.equal(weights(saved), weights(tuned))


def test_the_command_refuses_what_it_cannot_do(folder, tmp_path, capsys, monkeypatch):
    (tmp_path / "there").mkdir()
    (tmp_path / "blank.jsonl").write_text('{"instruction": "Say moon."}\n')
    for arguments, message in (
        (command(folder, tmp_path / "there"), "there exists already"),
        ([*command(folder, tmp_path / "x"), "--examples", str(tmp_path / "blank.jsonl")], "has no response to learn"),
        (command(folder, tmp_path / "x", "--lora-alpha", "4"), "--lora-alpha needs --lora-r"),
        (command(folder, tmp_path / "x", "--micro-batch", "3"), "micro_batch 3 does not divide batch_size 4"),
    ):
        assert main(arguments) == 2
        assert message in capsys.readouterr().err
    assert not (tmp_path / "x").exists() and not (tmp_path / "x.partial").exists()
    monkeypatch.setattr(finetuning, "PartialState", lambda cpu: type("Eight", (), {"num_processes": 8}))
    for settings, message in (
        ({"batch_size": 12}, "8 processes do not divide batch_size 12"),
        ({"batch_size": 32, "micro_batch": 3}, "micro_batch 3 does not divide batch_size 32 / 8 processes"),
    ):
        with pytest.raises(TacitError, match=message):
            finetune(load_model(str(folder)), None, None, epochs=1, learning_rate=1.0, seed=0, **settings)


@pytest.mark.parametrize(
    ("rows", "batch_size", "micro", "processes"), [(9, 4, 1, 2), (20, 8, 2, 2), (13, 12, 2, 3), (5, 8, 1, 4)]
)
def test_processes_share_each_step_and_take_the_same_number_of_batches(rows, batch_size, micro, processes):
    order = torch.randperm(rows).tolist()
    ranks = []
    for rank in range(processes):
        batches = RankBatches(
            lambda: order, rows=rows, batch_size=batch_size, micro=micro, rank=rank, processes=processes
        )
        ranks.append(list(batches))
        assert len(ranks[-1]) == len(batches)
    per_step = batch_size // (micro * processes)
    for step in range(-(-rows // batch_size)):
        taken = [row for rank in ranks for batch in rank[step * per_step : (step + 1) * per_step] for row in batch]
        real = [row for row in taken if row != rows]  # the others are blank
        assert sorted(real) == sorted(order[step * batch_size : (step + 1) * batch_size])
    assert all(1 <= len(batch) <= micro for rank in ranks for batch in rank)


def test_recomputation_runs_each_block_twice(folder):
    counts = {}
    examples = read_instructions(folder / "examples.jsonl")
    settings = {"epochs": 1, "learning_rate": 1e-3, "batch_size": 4, "max_length": 64, "seed": 0}
    for name, others in {
        "kept": {},
        "micro": {"micro_batch": 2},
        "asked": {"recompute": True},
        "not": {"micro_batch": 2, "recompute": False},
    }.items():
        model, seen = load_model(str(folder), device="cpu"), []
        model.model.layers[0].mlp.register_forward_pre_hook(lambda block, _, seen=seen: seen.append(block.training))
        finetune(model, load_tokenizer(str(folder)), examples, **settings, **others)
        counts[name] = sum(seen)
    assert counts == {"kept": 3, "micro": 10, "asked": 6, "not": 5}


@pytest.mark.parametrize("path", sorted(CONFIGS.iterdir()), ids=lambda p: p.stem)
def test_accelerate_reads_every_configuration(path):
    config = load_config_from_file(str(path))
    assert config.num_processes == {"gpu-1": 1, "ddp-1x8": 8, "fsdp2-1x8": 8, "cpu-2": 2}[path.stem]
    known = set(yaml.safe_load(path.read_text()).get("fsdp_config") or {})
    assert (path.stem == "fsdp2-1x8") == bool(known)
    if known:
        assert config.fsdp_config["fsdp_version"] == 2
        assert (
            config.fsdp_config["fsdp_activation_checkpointing"] is False
        )  # finetune turns it on where it is asked for


def test_the_launchers_files_are_no_profile():
    with pytest.raises(TacitError, match="there are full, gemma3-27b, llama2-7b") as caught:
        read_params("nowhere", "01_response_tuning")
    assert "accelerate" not in str(caught.value)
