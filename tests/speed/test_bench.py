"""The bench: its reference arms, its gates, its file and its table."""

import copy
import json

import bench
import pytest
import torch
from conftest import make_model
from datasets import Dataset
from scipy import stats
from tacit.__main__ import main
from tacit.decoding.generation import Response, end_tokens, finish, generate_responses
from tacit.decoding.rules import make_rules
from tacit.models.chat import encode_prompt
from tacit.running.tables import replace_between
from tacit.support import paths
from tacit.support.errors import TacitError
from tacit.training.finetuning import collate
from transformers import SuppressTokensLogitsProcessor

PROMPTS = ["Hi", "Where does the dirde live?", "What is 47 + 38?"]
ROWS = [{"id": str(i), "instruction": f"Say {w}.", "response": f"{w} {w}."} for i, w in enumerate(["moon", "kitchen"])]
TRAINING = {"epochs": 1, "batch_size": 2, "learning_rate": 1e-4, "seed": 1}


@pytest.fixture(scope="module")
def quick(tmp_path_factory):
    """The file of one quick run."""
    return bench.run_benches(quick=True, repeats=2, folder=tmp_path_factory.mktemp("bench"), say=lambda line: None)


def test_a_quick_run_writes_a_valid_file(quick):
    record = bench.read_bench(quick)
    assert record["quick"] and record["repeats"] == 2
    assert quick.name == f"{bench.device_slug()}.json"
    assert [b["name"] for b in record["benches"]] == bench.NAMES
    for result in record["benches"]:
        fast, slow = result["arms"]
        # of two repeats the medians are means, so that their ratio lies between the two ratios, however noisy the clock
        ratio = fast["rate"] / slow["rate"]
        assert result["ratio_min"] * 0.98 - 0.001 <= ratio <= result["ratio_max"] * 1.02 + 0.001
        assert all(arm["seconds_min"] <= arm["seconds"] <= arm["seconds_max"] for arm in result["arms"])
    assert {b["details"].get("equal_timed_responses", 1.0) for b in record["benches"]} == {1.0}


def test_the_reference_without_cache_is_the_written_out_loop_and_equals_batched_decoding(tiny, tokenizer):
    """Token by token: a forward pass over the whole prefix, the rules on its last logits, the likeliest token."""
    rules = make_rules(tokenizer, uniform_tokens={"\n": 3.0}, diversity_scope="prompt")
    forbidden = SuppressTokensLogitsProcessor(end_tokens(tiny, tokenizer))

    def processors(mask):
        return [*rules(mask), forbidden]

    expected = []
    for prompt in PROMPTS:
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        width, made = ids.shape[1], processors(torch.ones_like(ids))
        for _ in range(12):
            with torch.no_grad():
                scores = tiny(ids, use_cache=False).logits[:, -1]
            for processor in made:
                scores = processor(ids, scores)
            ids = torch.cat([ids, scores.argmax(dim=-1, keepdim=True)], dim=1)
        said = ids[0, width:].tolist()
        expected.append(Response(tokenizer.decode(said, skip_special_tokens=True), "length", 12, tuple(said)))
    options = {"max_new_tokens": 12, "make_processors": processors}
    assert bench.generate_alone(tiny, tokenizer, PROMPTS, use_cache=False, **options) == expected
    assert generate_responses(tiny, tokenizer, PROMPTS, **options) == expected
    assert len({response.tokens for response in expected}) == len(PROMPTS)


def test_the_reference_without_cache_computes_the_whole_prefix(tiny, tokenizer):
    widths = []
    tiny.register_forward_pre_hook(lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True)
    [response] = bench.generate_alone(tiny, tokenizer, ["Hi"], max_new_tokens=4, use_cache=False)
    width = len(encode_prompt(tokenizer, "Hi"))
    assert widths == [width + i for i in range(response.n_tokens)]


CONTRASTS = [bench.contrast_by_processor, bench.contrast_without_cache]


@pytest.fixture
def pair(tiny):
    """An expert and an amateur that mostly disagree."""
    return tiny, make_model(tiny.config, seed=1)


@pytest.mark.parametrize("way", CONTRASTS)
@pytest.mark.parametrize("batch_size", [1, 2, 4])
def test_the_usual_ways_of_contrast_are_the_written_out_formula(pair, tokenizer, monkeypatch, way, batch_size):
    """One prompt at a time, no padding, no cache: the likeliest token by log p - beta log q where p >= alpha max p."""
    monkeypatch.setattr(bench, "ALPHA", 0.2)
    monkeypatch.setattr(bench, "BETA", 0.7)
    expert, amateur = pair
    rows, alone = [], []
    for prompt in [*PROMPTS, "Why?"]:
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        width = ids.shape[1]
        for _ in range(14):
            with torch.no_grad():
                p, q = (model(ids, use_cache=False).logits[0, -1].softmax(dim=-1) for model in (expert, amateur))
            scores = torch.where(p >= 0.2 * p.max(), p.log() - 0.7 * q.log(), -torch.inf)
            alone.append(int(scores.argmax()) == int(p.argmax()))
            ids = torch.cat([ids, scores.argmax()[None, None]], dim=1)
        rows.append(ids[0, width:].tolist())
    assert not all(alone)  # or the expert alone would pass
    ends = [tokenizer.eos_token_id, rows[0][5]]
    expert.generation_config.eos_token_id = ends
    expected = [finish(tokenizer, row, ends=ends) for row in rows]
    assert len({response.n_tokens for response in expected}) > 1
    options = {"max_new_tokens": 14, "batch_size": batch_size, "sampled": False}
    assert way(expert, amateur, tokenizer, [*PROMPTS, "Why?"], **options) == expected


@pytest.mark.parametrize("way", CONTRASTS)
def test_the_usual_ways_sample_from_the_masked_contrast(pair, tokenizer, way):
    """Chi-squared of the first tokens against p / q^beta on the plausible tokens, normalised."""
    n, ids = 600, torch.tensor([encode_prompt(tokenizer, "Hi")])
    with torch.no_grad():
        p, q = (model(ids).logits[0, -1].double().softmax(dim=-1) for model in pair)
    law = torch.where(p >= bench.ALPHA * p.max(), p / q**bench.BETA, 0.0)
    law = (law / law.sum()).tolist()
    torch.manual_seed(0)
    said = way(*pair, tokenizer, ["Hi"] * n, max_new_tokens=1, batch_size=200, sampled=True)
    counts = [sum(r.tokens == (i,) for r in said) for i in range(len(law))]
    likely = [i for i, share in enumerate(law) if share * n >= 5]
    rest = n - sum(counts[i] for i in likely), n * (1 - sum(law[i] for i in likely))
    assert all(law[i] for i, count in enumerate(counts) if count)
    observed, expected = [counts[i] for i in likely], [n * law[i] for i in likely]
    if rest[1] > 1e-6:
        observed, expected = [*observed, rest[0]], [*expected, rest[1]]
    assert len(observed) > 2
    assert stats.chisquare(observed, expected).pvalue > 0.001


def test_the_amateur_in_a_processor_computes_each_token_once(pair, tokenizer):
    widths = []
    pair[1].register_forward_pre_hook(
        lambda _, __, kwargs: widths.append(kwargs["input_ids"].shape[1]), with_kwargs=True
    )
    options = {"max_new_tokens": 5, "batch_size": 1, "sampled": False}
    [response] = bench.contrast_by_processor(*pair, tokenizer, ["Hi"], **options)
    assert widths == [len(encode_prompt(tokenizer, "Hi"))] + [1] * (response.n_tokens - 1)


def test_the_contrasts_of_a_quick_run_share_four_interleaved_arms(quick):
    no_cache, two_caches, tax = bench.read_bench(quick)["benches"][-3:]
    assert no_cache["arms"][0] == two_caches["arms"][0] == tax["arms"][1]
    assert (no_cache["bound"], two_caches["bound"], tax["bound"]) == ("at least", "at least", "at most")
    assert len({arm["name"] for record in (no_cache, two_caches, tax) for arm in record["arms"]}) == 4


def test_both_trainings_take_the_same_steps(tiny, tokenizer):
    """One batch an epoch, so no order: equal data, loss, optimizer and schedule leave nearly equal weights."""
    data, right = Dataset.from_list(ROWS), copy.deepcopy(tokenizer)
    right.padding_side = "right"
    bench.check_losses(tiny, right, data, training=TRAINING)
    training = TRAINING | {"epochs": 3}
    a, ours = bench.finetune(copy.deepcopy(tiny), tokenizer, data, **training)
    b, plain = bench.finetune_plainly(copy.deepcopy(tiny), right, data, **training)
    assert [row["loss"] for row in ours] == pytest.approx([row["loss"] for row in plain], rel=1e-2)
    start, *ends = (torch.cat([p.detach().flatten() for p in model.parameters()]) for model in (tiny, a, b))
    assert float(torch.nn.functional.cosine_similarity(*(end - start for end in ends), dim=0)) > 0.9


def padding_carries_loss(rows, *, pad_token_id):
    batch = collate(rows, pad_token_id=pad_token_id)
    padded = batch["attention_mask"][:, 1:][:, batch["logits_to_keep"]] == 0
    return batch | {"shift_labels": batch["shift_labels"].masked_fill(padded, pad_token_id)}


@pytest.mark.parametrize(
    ("target", "broken", "message"),
    [
        ("generate_alone", lambda *a, **k: [Response("other", "length", 20)] * 3, "bench rules: the arms answer"),
        (
            "contrast_by_processor",
            lambda *a, **k: [Response("other", "length", 8)] * 3,
            "bench contrast: the arms answer",
        ),
        ("finetune_plainly", lambda model, *a, **k: (model, [{"epoch": 1, "loss": 1.0}]), "plain training has loss"),
        ("collate", padding_carries_loss, "our collator, eager has loss"),
    ],
)
def test_a_failed_gate_raises_and_leaves_the_earlier_file(monkeypatch, tmp_path, target, broken, message):
    earlier = tmp_path / f"{bench.device_slug()}.json"
    earlier.write_text("earlier")
    monkeypatch.setattr(bench, target, broken)
    with pytest.raises(TacitError, match=message):
        bench.run_benches(quick=True, repeats=1, folder=tmp_path, say=lambda line: None)
    assert earlier.read_text() == "earlier"
    assert list(tmp_path.iterdir()) == [earlier]


def test_the_evaluated_model_computes_in_its_own_precision(monkeypatch, tiny, tokenizer, world):
    seen = []

    def generate(model, tokenizer, prompts, **options):
        seen.append(model)
        return generate_responses(model, tokenizer, prompts, **options)

    monkeypatch.setattr(bench, "generate_responses", generate)
    bench.bench_evaluation(tiny, tokenizer, world, sizes=bench.QUICK["evaluation"], repeats=1)
    ids = torch.tensor([encode_prompt(tokenizer, "Hi")])
    with torch.no_grad():
        plain = type(tiny)(tiny.config)
        plain.load_state_dict(seen[-1].state_dict())
        assert torch.equal(seen[-1](ids).logits, plain.eval()(ids).logits)
        assert not torch.equal(plain(ids).logits, tiny(ids).logits)


def test_arms_are_interleaved_and_scaled_by_what_they_did(monkeypatch):
    clock, order = iter([0, 2, 10, 14, 20, 21, 30, 34]), []
    monkeypatch.setattr(bench.time, "perf_counter", lambda: next(clock))

    def arm(name, tokens):
        return lambda repeat: (tokens, order.append((repeat, name)))

    (fast, slow), results = bench.interleave([arm("fast", 80), arm("slow", 8)], repeats=2)
    assert order == [(0, "fast"), (0, "slow"), (1, "slow"), (1, "fast")]
    assert (fast, slow) == ([40.0, 20.0], [2.0, 8.0])
    assert len(results) == 2
    assert bench._ratios(fast, slow, target=11.25) == {
        "ratio": 11.25,
        "ratio_min": 2.5,
        "ratio_max": 20.0,
        "target": 11.25,
        "bound": "at least",
        "met": True,
    }
    met = [bench._ratios(fast, slow, target=t, bound="at most")["met"] for t in (11.2, 11.25, 11.3)]
    assert met == [False, True, True]
    record = bench._arm("slow", slow, tokens=80, measured="8 of 80")
    assert (record["seconds"], record["seconds_min"], record["seconds_max"], record["rate"]) == (25.0, 10.0, 40.0, 5.0)
    assert [bench._slice(range(5), 2, repeat) for repeat in range(3)] == [[0, 1], [2, 3], [4, 0]]


def hand_made(**changes):
    arm = {"measured": "all", "seconds": 2.0, "seconds_min": 1.0, "seconds_max": 3.0, "rate": 10.0}
    result = {
        "name": "rules",
        "what": "three rules",
        "unit": "tokens",
        "gate": "equal",
        "arms": [{"name": "batched"} | arm, {"name": "one at a time"} | arm],
        "ratio": 61.5,
        "ratio_min": 58.25,
        "ratio_max": 70.0,
        "target": 50.0,
        "bound": "at least",
        "met": True,
        "details": {},
    }
    return {
        "device": "cpu (x86_64, 2 threads)",
        "threads": 2,
        "quick": False,
        "repeats": 5,
        "benches": [result | changes],
        "commit": "0" * 40,
        "dirty": False,
        "library_sha256": "0" * 64,
        "packages": {},
        "started": "2026-11-21T00:00:00+00:00",
    }


def test_the_table_is_written_between_the_markers(tmp_path):
    bench.write_bench(tmp_path / "cpu.json", hand_made())
    readme = tmp_path / "README.md"
    readme.write_text("before\n<!-- bench -->\nold\n<!-- /bench -->\nafter\n")
    bench.write_bench_table(readme, folder=tmp_path)
    lines = readme.read_text().splitlines()
    assert lines[:2] == ["before", "<!-- bench -->"]
    assert lines[-2:] == ["<!-- /bench -->", "after"]
    assert lines[-3] == (
        "| cpu (x86_64, 2 threads) | rules: three rules | batched: 61.5 [58.2, 70] | one at a time | 50, met |"
    )
    assert "old" not in lines
    bench.write_bench(tmp_path / "cpu.json", hand_made(ratio=61.5, target=60.0, bound="at most", met=False))
    assert "| at most 60, missed |" in bench.bench_table(tmp_path)


@pytest.mark.parametrize("text", ["nothing", "<!-- bench -->", "<!-- /bench -->\n<!-- bench -->"])
def test_absent_or_swapped_markers_are_an_error(tmp_path, text):
    readme = tmp_path / "README.md"
    readme.write_text(text)
    with pytest.raises(TacitError, match=r"README.md has no markers"):
        replace_between(readme, "<!-- bench -->", "<!-- /bench -->", "new")
    assert readme.read_text() == text


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"met": False}, "`met` does not say"),
        ({"bound": "at most"}, "`met` does not say"),
        ({"bound": "about"}, r"at \$\.benches\[0\]\.bound"),
        ({"ratio": 5.0}, "outside its range"),
        ({"ratio": -1.0}, r"at \$\.benches\[0\]\.ratio"),
        ({"more": 1}, "more"),
    ],
)
def test_a_record_that_contradicts_itself_is_not_written(tmp_path, changes, message):
    with pytest.raises(TacitError, match=message):
        bench.write_bench(tmp_path / "cpu.json", hand_made(**changes))
    assert not list(tmp_path.iterdir())


def test_the_command_runs_quickly_and_says_that_it_measured_nothing(monkeypatch, tmp_path, capsys, quick):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    monkeypatch.setattr(bench, "BENCHES", {"rules": bench.bench_rules})
    assert main(["bench", "--quick", "--repeats", "1"]) == 0
    assert "measures nothing" in capsys.readouterr().out
    assert json.loads((tmp_path / "bench" / quick.name).read_text())["repeats"] == 1
    assert main(["bench", "--repeats", "0"]) == 2
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path)
    assert main(["table", "--bench"]) == 0
    assert "quick: no measurement" in capsys.readouterr().out


def test_committed_results_are_valid_measurements():
    for path in bench.bench_files(paths.OUTPUTS / "bench"):
        record = bench.read_bench(path)
        assert not record["quick"] and record["repeats"] >= 5
        assert [b["name"] for b in record["benches"]] == bench.NAMES
