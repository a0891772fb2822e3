"""The GPU benchmark as a dry run on the processor: every arm runs, is right, and is written down."""

import statistics

import decodebench
import gpubench
import pytest
import records
import tables
import torch
from decodebench import DRY, FULL, PAIRS, TINY
from tacit.decoding.capacity import cache_bytes
from tacit.models.experts import Experts, contrast
from tacit.support import provenance
from tacit.support.errors import TacitError
from transformers import AutoModelForCausalLM, LlamaConfig

CPU = torch.device("cpu")
WITHOUT_GPU = pytest.mark.skipif(torch.cuda.is_available(), reason="a CUDA device is here")


@pytest.fixture(scope="module")
def dry(tmp_path_factory):
    """The file of a dry run of one pair."""
    options = {"dry_run": True, "budget_s": 60.0, "out": tmp_path_factory.mktemp("gpu") / "gpu-cpu.json"}
    return gpubench.run_part("decoding", pair="llama2-7b", say=lambda line: None, **options)


def test_a_dry_run_measures_every_arm_and_writes_a_valid_file(dry):
    record = records.read(dry)
    part = record["decoding"]["llama2-7b"]
    assert record["dry_run"] and len(record["commit"]) == 40
    cells = {(cell["arm"], cell["lengths"], cell["batch"]) for cell in part["cells"]}
    fixed = {(arm, "fixed", batch) for arm in ("A1", "A2", "A5") for batch in DRY["fixed"]["batches"]}
    assert fixed | {("A0", "fixed", 2), ("A2", "fixed", 12), ("A5", "fixed", 12)} <= cells
    assert {arm for arm, lengths, _ in cells if lengths == "lognormal"} == {"A1", "A2"}
    for cell in part["cells"]:
        assert 1 <= cell["repeats"] <= 2
        assert ("roofline_share" in cell) == (cell["lengths"] == "fixed" and cell["arm"] != "A0")
    assert [target["name"] for target in part["targets"]] == [
        "share of the roofline",
        "times A1 on the length mix",
        "tax of the contrast",
    ]
    assert "mix of lengths, prompts included" in tables.gpu_table(record) and "a dry run" in tables.gpu_table(record)


def test_the_gate_passes_and_fails(monkeypatch):
    assert "equal A0" in decodebench.check_arms(CPU, rows=5, new=8, draws=500)
    right = decodebench.run_arm

    def wrong(arm, *rows, sampled=True, greedy_too=False, **options):  # the expert alone, as it samples or always
        return right("A5" if arm == "A2" and (sampled or greedy_too) else arm, *rows, sampled=sampled, **options)

    monkeypatch.setattr(decodebench, "run_arm", lambda *a, **k: wrong(*a, greedy_too=True, **k))
    with pytest.raises(TacitError, match="A2 says"):
        decodebench.check_arms(CPU, rows=5, new=8, draws=500)
    monkeypatch.setattr(decodebench, "run_arm", wrong)
    with pytest.raises(TacitError, match="first tokens"):
        decodebench.check_arms(CPU, rows=5, new=8, draws=2000)


def test_every_arm_gives_each_row_its_length():
    pair = decodebench.make_pair(TINY, device=CPU, dtype=torch.float32)
    prompts, limits = decodebench.draw_prompts([3, 9, 5, 4], vocabulary=300, seed=0), [7, 1, 4, 12]
    for arm in ("A0", "A1", "A2", "A5"):
        run = decodebench.run_arm(arm, pair, prompts, limits, batch=3)
        assert [len(row) for row in run.result] == limits and run.tokens == sum(limits)


def meta_model(pair):
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(LlamaConfig(**PAIRS[pair]), dtype=torch.bfloat16)


def test_the_shapes_are_the_published_ones():
    sizes = {name: (meta_model(name).num_parameters(), cache_bytes(meta_model(name))) for name in PAIRS}
    assert sizes == {"llama3.1-8b": (8_030_261_248, 131_072), "llama2-7b": (6_738_415_616, 524_288)}


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("llama3.1-8b", {1: 143, 32: 4010, 128: 11_630, 256: 14_400}),
        ("llama2-7b", {1: 159, 32: 3160, 128: 5780}),
    ],
)
def test_the_roofline_is_that_of_two_models_on_an_h200(name, expected):
    """Worked out apart from this code for 4.3 TB/s and 512 keys; a single model may do twice as much."""
    models = [meta_model(name) for _ in range(2)]
    pair = Experts(*models, combine=contrast)
    options = {"length": 512, "copy_gb_s": 4300.0, "product_tflops": 790.0}
    for batch, rate in expected.items():
        both = decodebench.roofline(pair, batch=batch, **options)
        assert both == pytest.approx(rate, rel=0.01)
        assert decodebench.roofline(models[0], batch=batch, **options) == pytest.approx(2 * both)


def test_the_length_mix_is_lognormal_and_long_tailed():
    prompts, limits = decodebench.draw_mix(FULL["mix"])
    assert len(prompts) == len(limits) == 1024
    assert min(prompts) >= 32 and max(prompts) <= 96
    assert 70 < statistics.median(limits) < 90
    assert statistics.mean(limits) == pytest.approx(106.2, abs=0.05) and max(limits) == 384  # as in the committed file


def test_targets_by_hand():
    def cell(arm, lengths, batch, rate, **more):
        return {"arm": arm, "lengths": lengths, "batch": batch, "rate": rate} | more

    cells = [
        cell("A2", "fixed", 128, 90.0, decode_rate=100.0, roofline_share=0.71),
        cell("A5", "fixed", 128, 180.0, decode_rate=220.0),
        cell("A2", "fixed", 32, 9.0, decode_rate=10.0, roofline_share=0.2),
        cell("A2", "lognormal", 256, 60.0),
        cell("A1", "lognormal", 128, 20.0),
    ]
    targets = decodebench.compare_targets(cells, batch=128)
    assert [(t["value"], t["met"]) for t in targets] == [(0.71, True), (3.0, True), (2.2, False)]
    assert [t["name"] for t in decodebench.compare_targets(cells[1:], batch=128)] == ["times A1 on the length mix"]


def test_parts_of_one_commit_are_merged_and_another_commits_file_is_begun_anew(dry, monkeypatch, tmp_path):
    out = tmp_path / "gpu-cpu.json"
    out.write_text(dry.read_text())
    monkeypatch.setattr(gpubench, "measure_training", lambda *, dry_run, budget_s, say: {"budget_s": budget_s})
    monkeypatch.setattr(gpubench, "measure_decoding", lambda pair, **k: {"pair": pair})
    monkeypatch.setattr(provenance, "commit", lambda: records.read(dry)["commit"])
    options = {"dry_run": True, "out": out, "say": lambda line: None, "pair": "llama3.1-8b", "budget_s": 7.0}
    gpubench.run_part("training", **options)
    gpubench.run_part("decoding", **options)
    record = records.read(out)
    assert record["training"] == {"budget_s": 7.0}
    assert record["decoding"] == records.read(dry)["decoding"] | {"llama3.1-8b": {"pair": "llama3.1-8b"}}
    monkeypatch.setattr(provenance, "commit", lambda: "0" * 40)
    gpubench.run_part("training", **options)
    assert "decoding" not in records.read(out)


def test_the_script_runs_the_parts_in_order(monkeypatch, capsys, dry):
    seen = []
    monkeypatch.setattr(gpubench, "run_part", lambda part, **o: seen.append((part, o["pair"], o["budget_s"])) or dry)
    assert gpubench.main(["--dry-run", "--part", "decoding", "--pair", "llama2-7b", "--budget-s", "9"]) == 0
    assert "measures nothing" in capsys.readouterr().out
    assert gpubench.main(["--dry-run"]) == 0
    assert [part for part, *_ in seen] == ["decoding", "tests", "decoding", "decoding", "training"]
    assert seen[0][1:] == ("llama2-7b", 9.0)


@WITHOUT_GPU
def test_without_a_gpu_only_a_dry_run_goes(tmp_path, capsys):
    for part in ("decoding", "training"):
        assert gpubench.main(["--part", part, "--pair", "llama2-7b", "--out", str(tmp_path / "a.json")]) == 2
        assert "--dry-run" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


@WITHOUT_GPU
def test_the_tests_part_counts_what_pytest_says():
    counts = gpubench.run_tests()
    assert counts["tests"] == counts["skipped"] > 5
    assert counts["failures"] == counts["errors"] == 0


def test_the_committed_measurement_is_read():
    for path in records.folder(dry=False).glob("gpu-*.json"):
        record = records.read(path)
        assert not record["dry_run"] and record["device"] in tables.gpu_table(record)
