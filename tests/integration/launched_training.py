"""What test_launched_training.py launches in two processes: finetuning of a tiny model, each step's loss noted.

Arguments: the folder with the model and its examples, where results go, ``ddp`` or ``fsdp``, and a command of tacit to
run afterwards (it is run here since every launch costs ten seconds of imports). Accelerate shards only on devices that
it knows as accelerators; for ``fsdp`` it is told here that gloo's CPU processes are such devices.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import torch
from accelerate import PartialState
from accelerate.utils import DistributedType
from tacit.__main__ import main
from tacit.data.instructions import read_instructions
from tacit.models.loading import load_model, load_tokenizer
from tacit.training import finetuning

RUNS = {
    "plain": {},
    "packed micro": {"packing": True, "micro_batch": 1},
    "lora": {"lora": {"r": 4}},
    "bf16": {"autocast": True, "micro_batch": 1, "optimizer": "adamw-master"},
}


def run_all(folder: Path, *, sharded: bool = False) -> dict[str, tuple[torch.nn.Module, list[float]]]:
    """Each run's model and its steps' losses."""
    done, log = {}, []
    means = finetuning.epoch_losses

    def noting(rows, *, epochs):
        log[:] = [row["loss"] for row in rows if "loss" in row]
        return means(rows, epochs=epochs)

    finetuning.epoch_losses = noting
    tokenizer, examples = load_tokenizer(str(folder)), read_instructions(folder / "examples.jsonl")
    for name, settings in RUNS.items():
        if "lora" in settings and (sharded or find_spec("peft") is None):
            continue
        options = {
            "epochs": 2,
            "learning_rate": 5e-3,
            "seed": 0,
            "batch_size": 4,
            "max_length": 64,
            "autocast": False,
        } | settings
        model, _ = finetuning.finetune(load_model(str(folder), device="cpu"), tokenizer, examples, **options)
        done[name] = (model, list(log))
    finetuning.epoch_losses = means
    return done


if __name__ == "__main__":
    source, out, kind = Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3]
    if kind == "fsdp":
        torch.distributed.init_process_group("gloo")
        PartialState._prepare_backend = lambda self, *_, **__: ("gloo", DistributedType.MULTI_GPU)
        PartialState.set_device = lambda self: setattr(self, "device", torch.device("cpu"))
    results = run_all(source, sharded=kind == "fsdp")
    (out / f"process-{PartialState().process_index}.txt").write_text(results["plain"][0].device.type)
    if PartialState().is_main_process:
        for name, (model, _) in results.items():
            model.save_pretrained(out / name)
        (out / "losses.json").write_text(json.dumps({name: losses for name, (_, losses) in results.items()}))
    if sys.argv[4:]:
        sys.exit(main(sys.argv[4:]))
