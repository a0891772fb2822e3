"""Pretraining that is killed goes on from its last checkpoint."""

import json
import os
import signal
import subprocess
import sys
import time

import processes
import pytest
import torch
from tacit.training import pretraining
from tacit.training.pretraining import pretrain
from transformers import AutoModelForCausalLM

TOY = {"side": "student", "width": 64, "layers": 1, "n_tokens": 24_576, "block": 64, "batch_size": 8, "save_steps": 10}


@pytest.mark.slow
def test_a_killed_run_resumes_and_ends_with_the_same_weights(tmp_path, tokenizer, monkeypatch):
    """SIGKILL after the first checkpoint; the rerun must continue from it, not start anew."""
    monkeypatch.setattr(pretraining, "N_HELD_OUT", 1_024)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    begin = {"tokenizer_from": tmp_path / "tokenizer"}
    whole = pretrain("toy", out=tmp_path / "whole", work=tmp_path / "work 1", **TOY, **begin)
    places = {"out": "resumed", "work": "work 2", "tokenizer_from": "tokenizer"}
    folders = ", ".join(f"{name}=Path({str(tmp_path / place)!r})" for name, place in places.items())
    code = "from pathlib import Path; from tacit.training import pretraining; pretraining.N_HELD_OUT = 1024; "
    code += f"pretraining.pretrain('toy', {folders}, **{TOY!r})"
    child = processes.start([sys.executable, "-c", code], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while not list((tmp_path / "work 2").glob("checkpoint-*/trainer_state.json")):
        assert child.poll() is None, "the run ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert not (tmp_path / "resumed").exists()
    resumed = pretrain("toy", out=tmp_path / "resumed", work=tmp_path / "work 2", **TOY, **begin)
    a, b = (AutoModelForCausalLM.from_pretrained(folder).state_dict() for folder in (whole, resumed))
    assert all(torch.equal(a[k], b[k]) for k in a)
    records = [json.loads((folder / "pretraining.json").read_text()) for folder in (whole, resumed)]
    assert records[0]["seconds"] > 0 and records[1]["seconds"] is None
