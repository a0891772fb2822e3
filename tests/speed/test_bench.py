"""The bench on the processor: its file, its gates, its arithmetic."""

import bench
import pytest
import records
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate
from timing import Run

NAMES = ["rules", "finetuning", "evaluation", "base evaluation"]
NAMES += ["contrast, no cache", "contrast, two caches", "contrast, tax"]


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The record of one quick run."""
    folder = tmp_path_factory.mktemp("bench")
    return records.read(bench.run_benches(quick=True, repeats=2, folder=folder, say=lambda line: None))


def test_a_quick_run_writes_a_valid_file(quick):
    assert quick["quick"] and quick["repeats"] == 2
    assert [result["name"] for result in quick["benches"]] == NAMES
    for result in quick["benches"]:
        assert [arm["repeats"] for arm in result["arms"]] == [2, 2]
    assert {result["details"].get("equal_timed_responses", 1.0) for result in quick["benches"]} == {1.0}


def test_the_contrasts_of_a_quick_run_share_four_interleaved_arms(quick):
    no_cache, two_caches, tax = quick["benches"][-3:]
    assert no_cache["arms"][0] == two_caches["arms"][0] == tax["arms"][1]
    assert (no_cache["bound"], two_caches["bound"], tax["bound"]) == ("at least", "at least", "at most")
    assert len({arm["name"] for result in (no_cache, two_caches, tax) for arm in result["arms"]}) == 4


def padding_carries_loss(rows, *, pad_token_id):
    batch = collate(rows, pad_token_id=pad_token_id)
    padded = batch["attention_mask"][:, 1:][:, batch["logits_to_keep"]] == 0
    return batch | {"shift_labels": batch["shift_labels"].masked_fill(padded, pad_token_id)}


@pytest.mark.parametrize(
    ("target", "broken", "message"),
    [
        ("generate_alone", lambda *a, **k: Run.of([[1]] * 3), "bench rules: the arms answer"),
        ("contrast_by_processor", lambda *a, **k: Run.of([[1]] * 3), "bench contrast: the arms answer"),
        ("finetune_plainly", lambda model, *a, **k: (model, [{"epoch": 1, "loss": 1.0}]), "plain training has loss"),
        ("collate", padding_carries_loss, "our collator has loss"),
    ],
)
def test_a_failed_gate_raises_and_leaves_the_earlier_file(monkeypatch, tmp_path, target, broken, message):
    earlier = tmp_path / f"{records.device_slug()}.json"
    earlier.write_text("earlier")
    monkeypatch.setattr(bench, target, broken)
    which = "contrast" if "contrast" in target else "rules" if target == "generate_alone" else "finetuning"
    monkeypatch.setattr(bench, "BENCHES", {which: bench.BENCHES[which]})
    with pytest.raises(TacitError, match=message):
        bench.run_benches(quick=True, repeats=1, folder=tmp_path, say=lambda line: None)
    assert earlier.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [earlier]


def test_slices_begin_again_after_the_end_and_repeats_are_at_least_one(capsys):
    assert [bench.take(range(5), 2, repeat) for repeat in range(3)] == [[0, 1], [2, 3], [4, 0]]
    assert bench.main(["--repeats", "0"]) == 2
    assert "--repeats must be at least 1" in capsys.readouterr().err


def test_committed_results_are_valid_measurements():
    for path in (paths.OUTPUTS / "bench").glob("[!g]*.json"):
        record = records.read(path)
        assert not record["quick"] and record["repeats"] >= 5
        assert [result["name"] for result in record["benches"]] == NAMES
