"""Whole runs: what is taken up, what is refused by name, which models are loaded, what is said and uploaded."""

import contextlib
import json
import shutil

import pytest
from synthesis_runs import INSTRUCTIONS, OPTIONS, RayHere, check_mended, contents, damage, run, whole_run
from tacit.models import loading, pairs
from tacit.support import paths, provenance
from tacit.support.errors import TacitError
from tacit.synthesis import engine, workers
from tacit.synthesis.engine import synthesize


@pytest.fixture(scope="module")
def whole(pair, tmp_path_factory):
    return whole_run(pair, tmp_path_factory)


def test_a_finished_run_decodes_nothing_and_keeps_the_filled_in_card(pair, whole, tmp_path, monkeypatch):
    out, lines = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    (out / "README.md").write_text("licence filled in")
    monkeypatch.setattr(engine, "Decoder", None)
    assert run(pair, out, say=lines.append, batch_size=9, shard_size=1).to_list() == whole[1]
    assert (out / "README.md").read_text() == "licence filled in"
    assert "5 rows per shard" in lines[0]


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


def test_tokens_and_their_log_ratios_are_columns_where_they_are_asked_for(pair, tmp_path):
    rows = run(pair, tmp_path / "out", INSTRUCTIONS[:2], log_ratios="tokens")
    assert rows.column_names[-3:] == ["mean_log_ratio", "tokens", "log_ratios"]
    assert [len(row["tokens"]) for row in rows] == [len(row["log_ratios"]) for row in rows] == rows["response_tokens"]
    assert run(pair, tmp_path / "none", INSTRUCTIONS[:2], log_ratios="none")["mean_log_ratio"] == [None, None]


@pytest.mark.parametrize("name", ["batch_size", "shard_size"])
def test_sizes_are_parameters_where_rounding_changes_texts(pair, tmp_path, name):
    out, options = tmp_path / "out", {"dtype": "bfloat16", "max_new_tokens": 2}
    rows = run(pair, out, INSTRUCTIONS[:3], **options).to_list()
    with pytest.raises(TacitError, match=f"holds a synthesis with {name} {OPTIONS[name]}, not 7: choose another --out"):
        run(pair, out, INSTRUCTIONS[:3], **options, **{name: 7})
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
            loaded.append((load.__name__, name, revision))
            return load(pair[name.removeprefix("me/")], **options)

        return loader

    monkeypatch.setattr(engine, "weights_key", look_up)
    monkeypatch.setattr(engine, "locate", lambda name: name)
    monkeypatch.setattr(engine, "load_config", here(loading.load_config))
    monkeypatch.setattr(engine, "load_tokenizer", here(loading.load_tokenizer))
    monkeypatch.setattr(pairs, "load_tokenizer", here(loading.load_tokenizer))
    monkeypatch.setattr(pairs, "load_model", here(loading.load_model))
    monkeypatch.setattr(workers, "_cluster", lambda *_, **__: contextlib.nullcontext(RayHere))
    options = OPTIONS | {"amateur_revision": "v1", "workers": n_workers}
    synthesize("me/expert@main", "me/amateur", INSTRUCTIONS[:3], out=tmp_path / "out", **options)
    assert {what for what, *_ in loaded} == {"load_tokenizer", "load_model", "load_config"}
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
    def fail(*_, **__):
        raise TacitError("the pair does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(engine, "Decoder", fail)
        with pytest.raises(TacitError, match="does not fit"):
            run(pair, tmp_path / "out", alpha=0.2)
    check_mended(pair, tmp_path / "out", whole)


def test_environments_are_noted_with_each_shard_and_others_are_named(pair, whole, tmp_path, monkeypatch):
    packages = provenance.packages()
    ours = packages | {"device": provenance.device_name(), "tacit": provenance.method_hash()}

    def made_with(out):
        return [json.loads(path.read_text())["made_with"] for path in sorted((out / ".synthesis/records").iterdir())]

    assert made_with(whole[0]) == [ours] * 3
    assert json.loads((whole[0] / "synthesis.json").read_text())["made_with"] == [ours]
    out, lines = tmp_path / "out", []
    shutil.copytree(whole[0], out)
    damage(out, "deleted")
    run(pair, out, say=lines.append)
    assert not [text for text in lines if "another environment" in text]
    damage(out, "deleted")
    monkeypatch.setattr(provenance, "device_name", lambda: "abacus")
    monkeypatch.setattr(provenance, "packages", lambda: packages | {"torch": "9.9"})
    run(pair, out, say=lines.append)
    assert made_with(out) == [ours, other := ours | {"device": "abacus", "torch": "9.9"}, ours]
    differ = f"torch {ours['torch']} then, 9.9 now, device {ours['device']} then, abacus now"
    assert [text for text in lines if "another environment" in text and text.endswith(differ)]
    assert json.loads((out / "synthesis.json").read_text())["made_with"] == [ours, other]
    card = (out / "README.md").read_text()
    assert "| made with (1) |" in card and "| made with (2) |" in card and "device abacus" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"alpha": 1.5}, "alpha must be from 0"),
        ({"alpha": -0.1}, "alpha must be from 0"),
        ({"alpha": float("nan")}, "alpha must be from 0"),
        ({"beta": -1.0}, "beta must be from 0 to 1000"),
        ({"beta": float("inf")}, "beta must be from 0 to 1000"),
        ({"temperature": -1.0}, "temperature must be 0 .greedy. or at least 0.0001"),
        ({"top_p": 0.0}, "top_p must be above 0"),
        ({"max_new_tokens": 0}, "max_new_tokens must be an integer"),
        ({"batch_size": 0}, "batch_size must be an integer"),
        ({"shard_size": 0}, "shard_size must be an integer"),
        ({"workers": 0}, "workers must be an integer"),
        ({"ray_address": "far:6379"}, r"ray_address \(far:6379\) needs workers above 1, and workers is 1"),
        ({"dtype": "float8"}, "dtype must be float32, bfloat16"),
        ({"temperature": 0.0, "top_p": 0.9}, "top_p 0.9 has no effect at temperature 0"),
        ({"max_new_tokens": 250}, "exceeds the expert's context of 256: lower max_new_tokens"),
        ({"expert": "outputs/models/nowhere"}, "no checkpoint at outputs/models/nowhere"),
        ({"rows": []}, "no instructions"),
        ({"rows": [{"id": "a"}]}, "row 0 .*: needs a text under 'instruction'"),
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
    other = str(paths.MODELS / "micro-base")
    with pytest.raises(TacitError, match="vocabularies differ"):
        synthesize(pair["expert"], other, INSTRUCTIONS[:3], out=tmp_path / "out", **OPTIONS)


def test_progress_counts_useful_tokens_now_and_then(monkeypatch):
    clock, lines = iter([0.0, 1.0, 4.0, 10.0, 11.0]), []
    monkeypatch.setattr(engine.time, "monotonic", lambda: next(clock))
    tick = engine.progress(lines.append, total=200)
    for rows, tokens in ((10, 100), (40, 300), (50, 600), (100, 100)):
        tick(rows, tokens)
    assert lines == ["100/200 rows, 100 tokens/s, 0 min 10 s left", "200/200 rows, 100 tokens/s, 0 min 0 s left"]


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
