"""The scripts that measure speed run, tiny: ``pytest tests/speed`` says more of them."""

import importlib
import json

import pytest


@pytest.fixture
def scripts(pytestconfig, monkeypatch, tmp_path):
    """Imports a script of ``tests/speed``; what it writes goes to ``tmp_path``."""
    monkeypatch.syspath_prepend(pytestconfig.rootpath / "tests/speed")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    return importlib.import_module


def test_the_bench_runs_and_its_table_says_that_it_measured_nothing(scripts, monkeypatch, tmp_path, capsys):
    bench = scripts("bench")
    monkeypatch.setattr(bench, "BENCHES", {"rules": bench.bench_rules})
    assert bench.main(["--quick", "--repeats", "1"]) == 0
    assert "measures nothing" in capsys.readouterr().out
    assert scripts("tables").main(["--folder", str(tmp_path / "bench")]) == 0
    assert "quick: no measurement" in capsys.readouterr().out


def test_the_gpu_bench_runs_dry(scripts, monkeypatch, tmp_path, capsys):
    gpubench, out = scripts("gpubench"), tmp_path / "gpu.json"
    options = ["--dry-run", "--pair", "llama2-7b", "--budget-s", "0", "--out", str(out)]
    for part in ("decoding", "training"):
        assert gpubench.main([*options, "--part", part]) == 0
    assert {"decoding", "training"} <= json.loads(out.read_text()).keys()
    assert "measures nothing" in capsys.readouterr().out
