"""The check before a long run: what it counts, against hand computation and known numbers, and what it refuses."""

import collections
import functools
import json
import os
import re
from types import SimpleNamespace

import httpx2
import pytest
import torch
import yaml
from configs import CONFIGS, PARAMETERS
from conftest import make_model
from huggingface_hub import errors
from tacit.__main__ import main
from tacit.models.loading import without_progress_bars
from tacit.models.memory import Size, count_parameters, kv_cache_bytes, training_bytes
from tacit.running import check, stocks
from tacit.running.needs import Needs, find_models, memory_needed, read_needs, tuned_models
from tacit.running.parameters import read_params
from tacit.running.plan import was_run
from tacit.scoring import alpacaeval
from tacit.support import paths
from tacit.support.errors import TacitError
from transformers import LlamaConfig, PreTrainedTokenizerFast

REVISION = "0123456789abcdef0123456789abcdef01234567"
HUB = f"someone/large@{REVISION}"
SOURCE = f"alpaca:someone/rows@{REVISION}[:10]"
PAPERS = ("llama2-7b", "olmo-7b", "qwen3-8b", "gemma3-27b", "llama3.1-8b")
SMALL = ("smollm2-135m", "smollm2-360m")

# ----------------------------------------------------------------------------------------------- counts


@pytest.mark.parametrize("name", sorted(PARAMETERS))
def test_parameters_are_those_that_the_models_are_known_to_have(name):
    assert known_count(name, encoder="MiniLM" in name) == PARAMETERS[name]


def test_counting_takes_no_memory_for_weights_and_counts_what_is_tied_once():
    shape = {"vocab_size": 50, "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1}
    one = LlamaConfig(**shape, num_attention_heads=2, tie_word_embeddings=True)
    # embedding; four square projections; three of the mlp; three norms
    assert count_parameters(one) == 50 * 8 + 4 * 8 * 8 + 3 * 8 * 12 + 3 * 8
    assert count_parameters(one) == sum(p.numel() for p in make_model(one, seed=0).parameters())


def test_keys_and_values_of_grouped_heads_and_sliding_windows():
    llama_3 = CONFIGS["meta-llama/Llama-3.1-8B"]
    assert kv_cache_bytes(llama_3, rows=1, tokens=1, dtype="bfloat16") == 2 * 32 * 8 * 128 * 2 == 131_072
    llama_2 = CONFIGS["meta-llama/Llama-2-7b-hf"]  # every head has its own
    assert kv_cache_bytes(llama_2, rows=3, tokens=10, dtype="float32") == 2 * 32 * 32 * 128 * 4 * 30
    gemma = CONFIGS["google/gemma-3-27b-it"]  # every sixth of 62 layers sees all tokens, the others 1,024
    kept = 10 * 4096 + 52 * 1024
    assert kv_cache_bytes(gemma, rows=2, tokens=4096, dtype="bfloat16") == 2 * 16 * 128 * kept * 2 * 2


def test_training_holds_four_numbers_a_parameter_and_a_micro_batch():
    size = Size(CONFIGS["meta-llama/Llama-2-7b-hf"], 6_738_415_616)
    activations = (
        2 * 2048 * (32 * 4096 * 4 + 32_000 * 10)
    )  # layer inputs in float32; logits in bf16 and twice in float32
    needed = training_bytes(size, dtype="float32", micro_batch=2, max_length=2048)
    assert needed == 16 * 6_738_415_616 + activations
    half = training_bytes(size, dtype="bfloat16", micro_batch=2, max_length=2048)
    assert half == 8 * 6_738_415_616 + activations - 2 * 2048 * 32 * 4096 * 2


def read(profile, notebook):
    """What a committed notebook states, and a profile's values for it."""
    return read_needs(paths.NOTEBOOKS / f"{notebook}.ipynb"), read_params(profile, notebook)


def sizes_of(needs, values):
    return {
        name: Size(CONFIGS[name.partition("@")[0]], PARAMETERS.get(name.partition("@")[0], 8_190_735_360))
        for _, name in find_models(needs, values)
    }


def test_the_phases_of_a_contrast_and_of_its_students():
    needs, values = read("qwen3-8b", "07_codit")
    values["students"] = values["students"][:1]
    phases = {phase.what: phase for phase in memory_needed(needs, values, sizes_of(needs, values))}
    assert set(phases) == {"decoding the pair", "tuning meta-llama/Llama-3.1-8B", "judging"}
    assert phases["decoding the pair"].fixed == 2 * 2 * 8_190_735_360
    assert phases["decoding the pair"].row == 2 * (2 * 36 * 8 * 128 * 2) * (4096 + 512)
    assert phases["judging"] == ("judging", 2 * 7_615_616_512, 0)
    vector = memory_needed(*read("qwen3-8b", "09_chat_vector"), sizes_of(needs, values))
    assert ("the pair and the vector between it", 3 * 4 * 8_190_735_360, 0) in vector


def test_finding_11_keeps_its_base_beside_what_it_tunes():
    both = [read("llama2-7b", name) for name in ("01_response_tuning", "11_two_papers")]
    of = [
        {p.what: p.fixed for p in memory_needed(*one, sizes_of(*one))}["tuning meta-llama/Llama-2-7b-hf"]
        for one in both
    ]
    assert of[1] - of[0] == 4 * 6_738_415_616


def test_tuned_models_are_counted_once_over_the_notebooks():
    """Seventeen and thirteen a seed, as a reading of the notebooks counts them; both make three for each student."""
    first, second = (tuned_models(*read("qwen3-8b", name)) for name in ("07_codit", "08_existing_data"))
    assert (len(first), len(second)) == (17, 13)
    assert len(first & second) == 3 * 3  # direct, CoDIT and gold of each student
    hewitt = [
        tuned_models(*read("llama2-7b", f"0{i}_{name}")) for i, name in ((1, "response_tuning"), (3, "single_task"))
    ]
    assert [len(keys) for keys in hewitt] == [4 * 5, 6 * 5]
    assert len(hewitt[0] & hewitt[1]) == 5  # the instruction-tuned
    needs, search = read("micro", "02_response_ranking")
    n = sum(len(choices) * (len(choices) > 1) + len(search["seeds"]) for choices in search["epochs"].values())
    assert len(tuned_models(needs, search)) == n


def test_a_search_over_cells_is_of_no_seed_and_ends_where_the_cells_are_chosen():
    needs, values = read("smoke", "07_codit")
    searched = tuned_models(needs, values)
    chosen = tuned_models(needs, values | {"alphas": []})
    assert chosen < searched
    assert len(searched - chosen) == 1 + len(values["alphas"]) * (1 + len(values["betas"]))


def test_models_are_found_by_the_parameters_that_a_notebook_states():
    needs = Needs(
        loads={"base": "model", "students": "model", "judge": "judge", "encoder": "encoder"}
        | dict.fromkeys(["sibling", "bases"], "model"),
        revisions={"base": "revision"},
    )
    values = {"base": "a/b", "revision": REVISION, "students": ["c/d", "e/f@g"], "judge": "alpaca_eval:weighted"}
    values |= {"encoder": "tfidf", "sibling": "", "bases": {"outputs/readiness/x.json": "none", "h/i": "most"}}
    named = [("base", f"a/b@{REVISION}"), ("students", "c/d"), ("students", "e/f@g"), ("bases", "h/i")]
    assert find_models(needs, values) == named
    assert find_models(needs, {"base": "a/b", "revision": "main"}) == [("base", "a/b")]


@functools.cache  # building a model of 27 billion parameters on the meta device takes a while
def known_count(name, *, encoder):
    return count_parameters(CONFIGS[name], encoder=encoder)


@pytest.mark.parametrize(
    "path",
    [
        path
        for name in (*PAPERS, *SMALL)
        for path in sorted((paths.PARAMS / name).glob("*.yaml"))
        if not was_run(path.stem, profile=name)  # of the others the manifest says what they took here
    ],
    ids=lambda path: f"{path.parent.name}/{path.stem}",
)
def test_the_profiles_of_the_hubs_models_name_the_memory_that_is_computed_and_hours(path):
    needs, values = read(path.parent.name, path.stem)
    count = {
        name: known_count(name.partition("@")[0], encoder=needs.loads[parameter] == "encoder")
        for parameter, name in find_models(needs, values)
    }
    sizes = {name: Size(CONFIGS[name.partition("@")[0]], n) for name, n in count.items()}
    phases = memory_needed(needs, values, sizes)
    head = "".join(line for line in path.read_text(encoding="utf-8").splitlines(keepends=True) if line.startswith("#"))
    assert f"# GPU memory, computed by `python -m tacit check`: {check.describe(phases)}.\n" in head
    kept = sum(count[model] * 4 for model, *_ in tuned_models(needs, values))
    machine = "T4" if path.parent.name in SMALL else "H200"
    assert re.search(rf"\d hours? on one {machine}, {kept / 1e9:.0f} GB of tuned models", head)
    if path.parent.name in SMALL:  # less than a GPU with 16 GB has beside what is not counted
        assert max(phase.fixed + phase.row for phase in phases) < 12e9


# ------------------------------------------------------------------------------- a profile on this machine


@pytest.fixture
def profile(tiny, tokenizer, tmp_path, monkeypatch):
    """Finding 7 in a profile ``mine`` with a tiny pair and a student, all folders; returns its values' writer."""
    monkeypatch.setattr(paths, "PARAMS", tmp_path / "params")
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for name in ("post", "pre"):
        with without_progress_bars():
            tiny.save_pretrained(tmp_path / name, max_shard_size="60KB")
        tokenizer.save_pretrained(tmp_path / name)
    rows = [{"instruction": f"What is {i}?", "response": str(i)} for i in range(4)]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    values = yaml.safe_load((paths.ROOT / "params/smoke/07_codit.yaml").read_text())
    values |= {"expert": str(tmp_path / "post"), "amateur": str(tmp_path / "pre"), "students": [str(tmp_path / "pre")]}
    values |= {"world": "", "judge": "", "sources": {"broad": f"jsonl:{tmp_path / 'rows.jsonl'}"}}
    (tmp_path / "params/mine").mkdir(parents=True)

    def write(**changes):
        (tmp_path / "params/mine/07_codit.yaml").write_text(yaml.safe_dump(values | changes))

    write()
    return write


def run_check(capsys, *more):
    """Exit status and the lines of ``python -m tacit check``, less those that are ok."""
    status = main(["check", "--profile", "mine", *more])
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1].endswith("warnings")
    return status, [line for line in lines[:-1] if not line.startswith(("ok", "note"))]


def test_a_good_local_profile_passes(profile, capsys):
    assert run_check(capsys) == (0, [])
    assert run_check(capsys, "07") == (0, [])


def test_missing_folders_and_shards_are_faults(profile, tmp_path, capsys):
    profile(students=[str(tmp_path / "nowhere")])
    status, [line] = run_check(capsys)
    assert status == 1
    assert "nowhere" in line and "parameter students" in line
    profile()
    shard = sorted((tmp_path / "pre").glob("model-*.safetensors"))[1]
    shard.unlink()
    status, [line, memory] = run_check(capsys)  # whose memory is then not known
    assert (status, memory.split()[0]) == (1, "warning")
    assert f"{shard.name} is missing" in line


def test_parameters_that_are_wrong_are_faults_and_unknown_names_stop_it(profile, capsys):
    profile(epochs="two")
    status, [line] = run_check(capsys)
    assert status == 1
    assert line.startswith("fault    parameters, 07_codit:") and "parameter epochs must be int" in line
    profile()
    assert run_check(capsys, "-p", "learning_rate", "2e-5")[0] == 1  # YAML reads a text
    for name in ("dtype", "student_dtype"):
        status, [line] = run_check(capsys, "-p", name, "auto")
        assert status == 1 and f"parameter {name} must be one of float32, bfloat16, float16, not 'auto'" in line
    assert main(["check", "--profile", "mine", "-p", "no_such", "1"]) == 2
    assert "no_such" in capsys.readouterr().err
    assert main(["check", "--profile", "no_such"]) == 2
    assert "unknown profile 'no_such'" in capsys.readouterr().err


def test_a_pair_with_two_vocabularies_or_widths_is_a_fault(profile, tiny, tokenizer, tmp_path, capsys):
    config = json.loads((tmp_path / "pre/config.json").read_text())
    (tmp_path / "pre/config.json").write_text(json.dumps(config | {"vocab_size": config["vocab_size"] + 8}))
    status, [line] = run_check(capsys)
    assert status == 1
    assert "logits differ in width" in line
    (tmp_path / "pre/config.json").write_text(json.dumps(config))
    more = PreTrainedTokenizerFast.from_pretrained(tmp_path / "pre")
    more.add_tokens(["<only here>"])
    more.save_pretrained(tmp_path / "pre")
    status, [line] = run_check(capsys)
    assert status == 1
    assert "'<only here>'" in line and "only in the amateur" in line


def test_too_little_disk_is_a_fault(profile, tiny, monkeypatch, capsys):
    n = sum(p.numel() for p in tiny.parameters())
    values = yaml.safe_load((paths.PARAMS / "mine/07_codit.yaml").read_text())
    tuned = 4 * n * len(tuned_models(read_needs(paths.NOTEBOOKS / "07_codit.ipynb"), values))
    usage = collections.namedtuple("usage", "total used free")
    for free, expected in ((tuned, 0), (tuned - 1, 1)):
        monkeypatch.setattr(check.shutil, "disk_usage", lambda _, free=free: usage(10**12, 10**12 - free, free))
        status, lines = run_check(capsys)
        assert status == expected
        assert ["free some space" in line for line in lines] == [True] * expected


def test_memory_is_held_against_the_gpu_where_there_is_one(profile, monkeypatch, capsys):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    for free, total, level in ((80e9, 80e9, None), (1e3, 80e9, "warning"), (1e3, 1e3, "fault")):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda free=free, total=total: (int(free), int(total)))
        status, lines = run_check(capsys)
        assert status == (level == "fault")
        assert [line.split()[0] for line in lines] == ([level] if level else [])


# ----------------------------------------------------------------------------------------------- the hub


class Hub:
    """Answers as ``HfApi``: what it knows of, or the error it is made with."""

    def __init__(self, error=None, *, gated=False, denied=None, lacks=()):
        self.error, self.gated, self.denied, self.lacks, self.asked = error, gated, denied, lacks, []

    def __call__(self):
        return self

    def model_info(self, name, *, revision, files_metadata):
        self.asked.append((name, revision))
        if self.error:
            raise self.error
        File = collections.namedtuple("File", "rfilename size")
        names = {"model.safetensors": 30_000_000_000, "pytorch_model.bin": 7, "original/model.safetensors": 7}
        names |= {"config.json": 1_000_000, "data/train.parquet": 2_000_000_000}
        files = [File(*pair) for pair in names.items() if pair[0] not in self.lacks]
        return collections.namedtuple("Info", "gated siblings")(self.gated, files)

    dataset_info = model_info

    def auth_check(self, name, *, repo_type):
        if self.denied:
            raise self.denied


def answer(kind, status):
    response = httpx2.Response(status, request=httpx2.Request("GET", "https://huggingface.co/api"))
    return kind("the hub says no", response=response)


@pytest.fixture
def hub(monkeypatch, tmp_path):
    monkeypatch.setattr(stocks, "try_to_load_from_cache", lambda *_, **__: None)
    monkeypatch.setattr(stocks.datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")

    def be(*arguments, **options):
        made = Hub(*arguments, **options)
        monkeypatch.setattr(stocks, "HfApi", made)
        return made

    return be


def test_what_is_on_the_hub_is_counted_as_it_would_be_downloaded(hub):
    asked = hub()
    found = stocks.check_model("base", HUB)
    assert (found.check.level, found.download) == ("ok", 30_001_000_000)  # neither pickles nor subfolders
    assert asked.asked == [("someone/large", REVISION)]
    found = stocks.check_source("broad", SOURCE)
    assert (found.check.level, found.download) == ("ok", 3 * 2_001_000_000)
    assert stocks.check_model("base", HUB.replace("@", "/@")).check.level == "fault"
    hub(lacks=["model.safetensors"])
    assert "has no safetensors" in stocks.check_model("base", HUB).check.text


@pytest.mark.parametrize("look", [stocks.check_model, stocks.check_source])
def test_gated_absent_and_unreachable_repositories_are_faults(hub, look):
    place = HUB if look is stocks.check_model else SOURCE
    hub(gated="auto")
    assert look("x", place).check.level == "ok"  # with access
    for made in (
        {"gated": "auto", "denied": answer(errors.GatedRepoError, 403)},
        {"error": answer(errors.GatedRepoError, 403)},
    ):
        hub(**made)
        found = look("x", place)
        assert (found.check.level, found.reachable) == ("fault", False)
        assert "accept its licence at https://huggingface.co/" in found.check.text
        assert "hf auth login" in found.check.text
    hub(answer(errors.RepositoryNotFoundError, 404))
    assert "not on the hub: check the id" in look("x", place).check.text
    for error, words in (
        (errors.OfflineModeIsEnabled("offline"), "HF_HUB_OFFLINE is set: unset it to download, or bring a cache"),
        (httpx2.ConnectError("no route"), "the hub could not be asked"),
        (answer(errors.HfHubHTTPError, 500), "the hub could not be asked"),
    ):
        hub(error)
        found = look("x", place)
        assert (found.check.level, found.reachable) == ("fault", False)
        assert words in found.check.text


@pytest.mark.parametrize("name", SMALL)
def test_out_of_the_hubs_reach_a_profile_is_one_screen_that_says_what_to_do(name, hub, monkeypatch, tmp_path, capsys):
    """Each model and dataset once, by its cause in few words; memory that is not known in one line."""
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path / "cache"))
    hub(errors.OfflineModeIsEnabled("offline"))
    assert main(["check", "--profile", name]) == 1
    lines = capsys.readouterr().out.splitlines()
    faults = [line for line in lines if line.startswith("fault")]
    assert len(lines) < 36
    assert lines[-1] == f"{len(faults)} faults, 1 warnings"
    assert all("unset it to download" in line or "tacit fetch" in line for line in faults)
    assert all(len(line) < 200 for line in faults if "tacit fetch" not in line)
    [warning] = [line for line in lines if line.startswith("warning")]
    assert warning.startswith("warning  GPU memory, 01_response_tuning, 02_response_ranking, ")
    notes = [line for line in lines if line.startswith("note")]
    assert notes[0] == "note     models and datasets are here for: no notebook"
    if name == "smollm2-135m":
        [line] = [line for line in notes if "smollm2-135m-instruct" in line]
        assert line.endswith(": 12_instructive_decoding, 20_real_model")


def test_notebooks_are_told_by_what_they_lack():
    lacking = {
        "01_a": [],
        "02_b": ["m"],
        "03_c": ["m"],
        "04_d": ["m", "d"],
        "05_e": ["m", "d", "e"],
        "06_f": list("wxyz"),
    }
    lines = [f"{one.level}, {one.what}: {one.text}" for one in check.tell_ready(lacking)]
    assert lines == [
        "note, models and datasets are here for: 01_a",
        "note, lacking m: 02_b, 03_c",
        "note, lacking m, d: 04_d",
        "note, lacking three or more of the above: 05_e, 06_f",
    ]


def test_what_is_in_the_cache_is_not_asked_for(hub, profile, tmp_path, monkeypatch):
    made = hub(errors.OfflineModeIsEnabled("offline"))
    folder, lost = tmp_path / "pre", sorted((tmp_path / "pre").glob("model-*.safetensors"))[0].name

    def cached(name, file, *, revision, repo_type):
        assert (name, revision) == ("someone/large", REVISION)
        return str(folder / file) if (folder / file).exists() else None

    monkeypatch.setattr(stocks, "try_to_load_from_cache", cached)
    assert stocks.check_model("base", HUB).check == ("ok", f"model {HUB}", "whole in the hub's cache")
    os.rename(folder / lost, folder / "elsewhere")
    assert stocks.check_model("base", HUB).check.level == "fault"  # one shard of several
    assert made.asked == [("someone/large", REVISION)]
    kept = tmp_path / "datasets/someone___rows/default/0.0.0" / REVISION
    kept.mkdir(parents=True)
    (kept / "dataset_info.json").write_text("{}")
    assert stocks.check_source("broad", SOURCE).check.level == "ok"
    assert stocks.check_source("broad", SOURCE.replace("0123", "3210")).check.level == "fault"


def test_sources_that_name_nothing_are_faults(hub):
    made = hub()
    for text in ("nothing", "no_such:someone/rows", "jsonl:absent.jsonl", "jsonl:someone/rows", "alpaca:rows.csv"):
        assert stocks.check_source("broad", text).check.level == "fault"
    assert not made.asked


# ---------------------------------------------------------------------------------------------- the judge


def test_an_annotator_is_looked_for_as_its_package_would(profile, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/configs.yaml").write_text("mine:\n  fn_completions: anthropic_completions\n")
    profile(judge=f"alpaca_eval:{tmp_path / 'mine'}")

    def no_package():
        raise TacitError("pip install 'tacit[alpaca]'")

    monkeypatch.setattr(alpacaeval, "_package", no_package)
    status, [line] = run_check(capsys)
    assert status == 1 and "pip install 'tacit[alpaca]'" in line
    constants = SimpleNamespace(EVALUATORS_CONFIG_DIR=tmp_path / "none", OPENAI_CLIENT_CONFIG_PATH=tmp_path / "none")
    monkeypatch.setattr(alpacaeval, "_package", lambda: SimpleNamespace(constants=constants))
    for name in ("OPENAI_API_KEY", "OPENAI_API_KEYS", "ANTHROPIC_API_KEY"):
        monkeypatch.delenv(name, raising=False)
    status, [line] = run_check(capsys)
    assert status == 1 and "ANTHROPIC_API_KEY" in line
    monkeypatch.setenv("ANTHROPIC_API_KEY", "not a real one")
    assert run_check(capsys) == (0, [])
    profile(judge="alpaca_eval:misspelt")
    status, [line] = run_check(capsys)
    assert status == 1 and "no annotator 'misspelt'" in line


def test_a_judge_that_cannot_say_its_verdicts_is_a_fault(profile, tmp_path, capsys):
    profile(judge=str(tmp_path / "post"))
    status, lines = run_check(capsys)
    same = tmp_path / "post/chat_template.jinja"
    template = same.read_text()
    assert status == 0, lines
    same.write_text("{% for m in messages %}{{ m['content'] | lower }}{% endfor %}")  # m and M are then one
    status, [line] = run_check(capsys)
    assert status == 1
    assert line.startswith("fault    judge")
    same.write_text(template)
