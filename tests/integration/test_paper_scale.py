"""Models of the hub: what the profiles hold, the papers' and the small ones', and every notebook on tiny files."""

import itertools
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import make_model
from datasets import Dataset
from tacit.data.sources import SOURCES, load_source, split_source
from tacit.decoding.generation import end_tokens, generate_responses
from tacit.decoding.rules import resolve_tokens
from tacit.experiments.evaluation import TEXT_MARKERS
from tacit.models import chat
from tacit.models.experts import Experts, contrast
from tacit.models.loading import load_model, load_tokenizer, split_revision, without_progress_bars
from tacit.models.pairs import load_pair
from tacit.running.execution import run_notebook
from tacit.running.metrics import read_metrics
from tacit.running.parameters import complete_parameters, read_params
from tacit.scoring.verdicts import VERDICTS
from tacit.support import paths
from tacit.training.finetuning import finetune
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Gemma3Config, LlamaConfig, LlamaForCausalLM, LlamaTokenizer, PreTrainedTokenizerFast

ROOT = Path(__file__).parents[2]
PROFILES = ("llama2-7b", "olmo-7b")  # Hewitt et al.'s
NOTEBOOKS = (
    "01_response_tuning",
    "02_response_ranking",
    "03_single_task",
    "04_narrow_style",
    "05_three_rules",
    "11_two_papers",
)
CODIT_PROFILES, CODIT_NOTEBOOKS = ("qwen3-8b", "gemma3-27b", "llama3.1-8b"), ("07_codit", "08_existing_data")
VECTOR_PROFILES, VECTOR = (
    ("qwen3-8b", "llama3.1-8b"),
    "09_chat_vector",
)  # a vector of 27 billion needs more than one GPU
SMALL = ("smollm2-135m", "smollm2-360m")  # every notebook of both papers, at a newcomer's size
HUB_ID = r"[\w-]+/[\w.-]+"

# ------------------------------------------- the profiles, against the reference table (shared/reference/hewitt2024.md)

BASES = {"llama2-7b": "meta-llama/Llama-2-7b-hf", "olmo-7b": "allenai/OLMo-7B-hf"}
LEARNING_RATES = {"llama2-7b": 1e-5, "olmo-7b": 3e-6}
SAME = {
    "batch_size": 64,
    "seeds": [1, 2, 3, 4, 5],
    "schedule": "cosine",
    "warmup": 0.1,
    "max_length": 2048,
    "max_new_tokens": 512,
    "world": "",
}
EPOCHS = {
    "llama2-7b": {
        "instruction-tuned": 15,
        "response-tuned": 5,
        "instruction-tuned, other tags": 15,
        "response-tuned, other tags": 5,
        "mbpp": 15,
        "gsm": 7,
        "poetry": 15,
        "recipes": 20,
        "chess": 15,
    },
    "olmo-7b": {
        "instruction-tuned": 15,
        "response-tuned": 7,
        "instruction-tuned, other tags": 15,
        "response-tuned, other tags": 7,
        "mbpp": 7,
        "gsm": 7,
        "poetry": 5,
        "recipes": 20,
        "chess": 20,
    },
}
ARMS = {
    "01_response_tuning": [
        "instruction-tuned",
        "response-tuned",
        "instruction-tuned, other tags",
        "response-tuned, other tags",
    ],
    "02_response_ranking": ["instruction-tuned", "response-tuned"],
    "03_single_task": ["instruction-tuned", "mbpp", "gsm", "poetry", "recipes", "chess"],
    "04_narrow_style": ["instruction-tuned", "mbpp", "gsm", "poetry", "recipes", "chess"],
    "05_three_rules": ["instruction-tuned"],
    "11_two_papers": ["instruction-tuned"],
}
TABLE_8 = {
    "<": -4, " <": -4, "|": -4, " I": -5, "I": -5, " We": -3, "What": -5, " should": -6,
    " *": 1, " -": 1, "   ": 1, " #": 1, " ##": 1, "\n": 1, "!": 1,
}  # fmt: skip
# Each training set's source, its place on the hub, and how many of its rows are used (None: all).
SETS = {
    "broad": ("lima", "GAIR/lima", None),
    "mbpp": ("mbpp", "google-research-datasets/mbpp", None),
    "gsm": ("gsm8k", "openai/gsm8k", 1000),
    "recipes": ("recipes", "Hieu-Pham/kaggle_food_recipes", 1000),
    "poetry": ("poetry", "merve/poetry", None),
    "chess": ("chess", "patrickfrank1/chess-pgn-games", 1000),
}
TEST_PROMPTS = {  # the others: AlpacaEval's 805
    "02_response_ranking": ("alpaca", "tatsu-lab/alpaca", 1000),
    "11_two_papers": ("alpaca_eval", "tatsu-lab/alpaca_eval", 605),  # the other 200 are fitted and chosen on
}


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_profiles_hold_the_papers_hyperparameters(profile, notebook):
    values = complete_parameters(
        ROOT / "notebooks" / f"{notebook}.ipynb", read_params(profile, notebook), where=profile
    )
    assert values["base"] == BASES[profile]
    assert values["learning_rate"] == LEARNING_RATES[profile]
    assert {name: values[name] for name in SAME} == SAME
    assert values["epochs"] == {arm: [EPOCHS[profile][arm]] for arm in ARMS[notebook]}
    assert values["n_train"] >= 1030
    assert values["output"] == f"outputs/{profile}"
    kind, place, n_test = TEST_PROMPTS.get(notebook, ("alpaca_eval", "tatsu-lab/alpaca_eval", 805))
    assert values["n_test"] == n_test
    tasks = [arm for arm in ARMS[notebook] if arm in SETS]
    expected = {name: SETS[name] for name in ["broad", *tasks]} | {"test": (kind, place, None)}
    found = {name: split_source(text) for name, text in values["sources"].items()}
    assert {name: (kind, where.split("@")[0], rows) for name, (kind, where, rows) in found.items()} == expected
    assert set(tasks) <= set(TEXT_MARKERS)


@pytest.mark.parametrize("profile", PROFILES)
def test_the_rules_are_table_8s(profile):
    values = read_params(profile, "05_three_rules")
    again = read_params(profile, "11_two_papers")
    rules = ("uniform_tokens", "end_weight", "end_horizon", "diversity_weight", "allow_unresolved")
    assert {name: again[name] for name in rules} == {name: values[name] for name in rules}
    assert again["n_test"] + again["n_validation"] + again["n_fit"] == values["n_test"]
    assert {token: 1 if token in again["paper_up"] else -1 for token in again["paper_up"] + again["paper_down"]} == {
        token: np.sign(score) for token, score in TABLE_8.items()
    }
    assert values["uniform_tokens"] == TABLE_8
    assert (values["end_weight"], values["end_horizon"], values["diversity_weight"]) == (15.0, 250, -1.5)
    assert (values["end_after"], values["diversity_scope"]) == ("grow", "response")
    assert values["allow_unresolved"] is (profile != "llama2-7b")  # the table was written for Llama's vocabulary
    assert read_params(profile, "02_response_ranking")["n_others"] == 5


@pytest.mark.parametrize("profile", [*PROFILES, *CODIT_PROFILES, *SMALL])
def test_every_profile_has_the_notebooks_that_apply(profile):
    """What does not apply, and why, is in params/README.md's table."""
    expected = [*NOTEBOOKS] if profile in (*PROFILES, *SMALL) else []
    expected += [*CODIT_NOTEBOOKS] if profile in (*CODIT_PROFILES, *SMALL) else []
    expected += [VECTOR] if profile in (*VECTOR_PROFILES, *SMALL) else []
    expected += ["12_instructive_decoding", "20_real_model"] if profile == "smollm2-135m" else []
    assert {path.stem for path in (ROOT / "params" / profile).glob("*.yaml")} == set(expected)


def test_the_table_of_profiles_says_which_notebooks_they_have():
    lines = (ROOT / "params/README.md").read_text(encoding="utf-8").splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith("|"))
    table = itertools.takewhile(lambda line: line.startswith("|"), lines[start:])
    head, _, *rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in table]
    assert sorted(row[0] for row in rows) == sorted(path.stem for path in (ROOT / "notebooks").glob("*.ipynb"))
    for stem, *cells in rows:
        for profile, cell in zip(head[1:], cells, strict=True):
            there = (ROOT / "params" / profile / f"{stem}.yaml").exists()
            assert cell == "yes" if there else cell not in ("", "yes"), (stem, profile)


@pytest.mark.parametrize("notebook", CODIT_NOTEBOOKS)
def test_the_teachers_profiles_differ_in_the_teacher_only(notebook):
    """Students, data and hyperparameters are the same; only the number of instructions follows the teacher's size."""
    own = {"expert", "amateur", "output", "students", "n_instructions", "n_full"}
    common = [
        {key: value for key, value in read_params(profile, notebook).items() if key not in own}
        for profile in CODIT_PROFILES
    ]
    assert common[0] == common[1] == common[2]


# --------------------------------------------- CoDIT's profiles, against its reference (shared/reference/codit2026.md)

PAIRS = {
    "qwen3-8b": ("Qwen/Qwen3-8B", "Qwen/Qwen3-8B-Base"),
    "gemma3-27b": ("google/gemma-3-27b-it", "google/gemma-3-27b-pt"),
    "llama3.1-8b": ("meta-llama/Llama-3.1-8B-Instruct", "meta-llama/Llama-3.1-8B"),
}
STUDENTS = {"meta-llama/Llama-3.1-8B", "Qwen/Qwen3-8B-Base", "google/gemma-3-4b-pt"}
CODIT_SETS = {
    "broad": ("lmsys", "lmsys/lmsys-chat-1m", None),
    "test": ("alpaca_eval", "tatsu-lab/alpaca_eval", None),
}
WILDCHAT = {"public WildChat": ("wildchat", "allenai/WildChat-1M", None)}


@pytest.mark.parametrize("profile", CODIT_PROFILES)
@pytest.mark.parametrize("notebook", CODIT_NOTEBOOKS)
def test_codit_profiles_hold_the_papers_settings(profile, notebook):
    values = complete_parameters(
        ROOT / "notebooks" / f"{notebook}.ipynb", read_params(profile, notebook), where=profile
    )
    assert tuple(split_revision(values[role])[0] for role in ("expert", "amateur")) == PAIRS[profile]
    students = [split_revision(name)[0] for name in values["students"]]
    assert set(students) == STUDENTS
    assert students[0].split("/")[0] != PAIRS[profile][0].split("/")[0]  # of another family than the teacher
    assert (values["dtype"], values["max_new_tokens"], values["world"], values["n_test"]) == ("bfloat16", 4096, "", 805)
    assert values["output"] == f"outputs/{profile}"
    found = {name: split_source(text) for name, text in values["sources"].items()}
    public = WILDCHAT if notebook == "08_existing_data" else {}
    assert {name: (kind, where.split("@")[0], n) for name, (kind, where, n) in found.items()} == CODIT_SETS | public
    if notebook == "07_codit":
        assert (values["alphas"], values["betas"], values["chosen"]) == ([], [1.0], [0.01, 1.0])
    else:
        assert (values["alpha"], values["beta"]) == (0.01, 1.0)


@pytest.mark.parametrize("profile", VECTOR_PROFILES)
def test_the_vectors_profiles_are_finding_7s(profile):
    values, first = (read_params(profile, name) for name in (VECTOR, "07_codit"))
    assert (values["alpha"], values["beta"]) == (0.01, 1.0)
    assert [values["student"]] == first["students"][:1]  # of another architecture than the teacher's
    same = set(values) & set(first) - {"sources", "seeds"}
    assert {name: values[name] for name in same} == {name: first[name] for name in same}
    assert {name: values["sources"][name] for name in first["sources"]} == first["sources"]


# ------------------------------------------------------------------------- the small profiles, which nobody has to ask

DOLLY = ("dolly", "databricks/databricks-dolly-15k", None)
GATED = ("meta-llama/", "google/gemma", "GAIR/lima", "lmsys/lmsys-chat-1m")
JUDGE = "Qwen/Qwen2.5-1.5B-Instruct"
RATES = {"smollm2-135m": 1e-4, "smollm2-360m": 5e-5}
OURS = {"batch_size": 32, "seeds": [1, 2, 3], "max_length": 1024, "max_new_tokens": 256, "n_test": 200, "world": ""}
OURS |= {"schedule": "cosine", "warmup": 0.1, "dtype": "float32"}


def read_broad(values):
    """The kind of the instructions' source, its place without the revision, and its number of rows."""
    kind, where, rows = split_source(values["sources"]["broad"])
    return kind, where.split("@")[0], rows


def read_small(profile, notebook):
    """A small profile's parameters, complete, whose common part is as it should be."""
    source = ROOT / "notebooks" / f"{notebook}.ipynb"
    values = complete_parameters(source, read_params(profile, notebook), where=profile)
    assert {name: values[name] for name in OURS} == OURS
    assert values["output"] == f"outputs/{profile}"
    judged = notebook not in ("02_response_ranking", "04_narrow_style")
    assert values["judge"].partition("@")[0] == JUDGE * judged
    text = (ROOT / "params" / profile / f"{notebook}.yaml").read_text(encoding="utf-8")
    assert not any(name in text for name in GATED)
    assert "gated: accept" not in text
    assert "not run by us" in text
    return values


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_small_profiles_have_the_first_papers_arms_and_rules(profile, notebook):
    values, paper = read_small(profile, notebook), read_params("llama2-7b", notebook)
    assert values["base"] == f"HuggingFaceTB/SmolLM2-{profile[-4:].upper()}"
    assert (values["learning_rate"], values["n_train"]) == (RATES[profile], 1000)
    assert values["epochs"] == {arm: [3] for arm in ARMS[notebook]}
    assert read_broad(values) == DOLLY
    assert values["sources"] | {"broad": ""} == paper["sources"] | {"broad": ""}
    ours = {*OURS, "base", "revision", "sources", "judge", "n_train", "epochs", "learning_rate", "micro_batch"}
    ours |= {"output"}
    ours |= {"batch_tokens"} if notebook == "02_response_ranking" else set()
    ours |= {"allow_unresolved"} if "allow_unresolved" in values else set()  # the vocabulary is another
    assert {name: values[name] for name in {*values} - ours} == {name: paper[name] for name in {*paper} - ours}
    assert values.get("allow_unresolved", True) is True


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("notebook", [*CODIT_NOTEBOOKS, VECTOR])
def test_small_profiles_have_codits_cell_and_a_student_of_another_family(profile, notebook):
    values, paper = read_small(profile, notebook), read_params("qwen3-8b", notebook)
    base = f"HuggingFaceTB/SmolLM2-{profile[-4:].upper()}"
    assert [split_revision(values[role])[0] for role in ("expert", "amateur")] == [f"{base}-Instruct", base]
    students = values["students"] if "students" in values else [values["student"]]
    assert split_revision(students[0])[0] == "Qwen/Qwen2.5-0.5B"  # another architecture and vocabulary
    assert students[1:] == ([] if notebook == VECTOR else [values["amateur"]])
    assert values["learning_rate"] == 5e-5
    assert read_broad(values) == DOLLY
    assert values["sources"] | {"broad": ""} == paper["sources"] | {"broad": ""}
    ours = {*OURS, "expert", "amateur", "students", "student", "sources", "judge", "learning_rate", "micro_batch"}
    ours |= {"output", "n_instructions", "n_full", "more_arms"}
    assert {name: values[name] for name in {*values} - ours} == {name: paper[name] for name in {*paper} - ours}
    assert values["n_instructions"] == 1000
    if "n_full" in values:  # in the paper's proportion
        assert values["n_full"] / 1000 == paper["n_full"] / paper["n_instructions"]


@pytest.mark.parametrize("notebook", [*NOTEBOOKS, *CODIT_NOTEBOOKS, VECTOR])
def test_the_small_profiles_differ_in_the_model_and_its_rate_only(notebook):
    own = {"base", "revision", "expert", "amateur", "students", "learning_rate", "output"}
    common = [{key: value for key, value in read_params(p, notebook).items() if key not in own} for p in SMALL]
    assert common[0] == common[1]


@pytest.mark.parametrize("profile", SMALL)
@pytest.mark.parametrize("notebook", [*NOTEBOOKS, *CODIT_NOTEBOOKS, VECTOR])
def test_every_hub_id_of_the_small_profiles_is_pinned_and_its_line_names_the_licence(profile, notebook):
    values = read_params(profile, notebook)
    pinned = hub_ids({key: value for key, value in values.items() if key not in ("base", "revision")})
    pinned += [(values["base"], values["revision"])] if "base" in values else []
    models = 3 if notebook == VECTOR else 2 + len(values["students"]) if "students" in values else 1
    assert len(pinned) == models + len(values["sources"]) + sum(bool(values.get(key)) for key in ("judge", "encoder"))
    check_pins(pinned, profile, notebook)


def hub_ids(value):
    """Every hub id in a parameter's value, with its revision or None."""
    if isinstance(value, dict | list):
        return [found for item in (value.values() if isinstance(value, dict) else value) for found in hub_ids(item)]
    match = isinstance(value, str) and re.fullmatch(rf"(\w+:)?({HUB_ID})(@([^\[]*))?(\[:\d+\])?", value)
    return [(match[2], match[4])] if match and not match[2].startswith("outputs/") else []


@pytest.mark.parametrize("profile", PROFILES)
@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_every_hub_id_is_pinned_and_its_line_names_licence_or_gate(profile, notebook):
    values = read_params(profile, notebook)
    pinned = hub_ids({key: value for key, value in values.items() if key not in ("base", "revision")})
    pinned += [(name, values["revision"]) for name, _ in hub_ids(values["base"])]
    assert len(pinned) == 1 + len(values["sources"]) + sum(bool(values.get(key)) for key in ("judge", "encoder"))
    check_pins(pinned, profile, notebook)


@pytest.mark.parametrize("profile", CODIT_PROFILES)
@pytest.mark.parametrize("notebook", CODIT_NOTEBOOKS)
def test_every_hub_id_of_codits_is_pinned_and_its_line_names_licence_or_gate(profile, notebook):
    values = read_params(profile, notebook)
    pinned = hub_ids(values)
    assert len(pinned) == 3 + len(values["students"]) + len(values["sources"])
    check_pins(pinned, profile, notebook)


@pytest.mark.parametrize("profile", VECTOR_PROFILES)
def test_every_hub_id_of_the_vectors_is_pinned_and_its_line_names_licence_or_gate(profile):
    pinned = hub_ids(read_params(profile, VECTOR))
    assert len(pinned) == 4 + 3  # pair, student and judge; instructions, plain tasks and test prompts
    check_pins(pinned, profile, VECTOR)


def check_pins(pinned, profile, notebook):
    for name, revision in pinned:
        assert re.fullmatch(r"[0-9a-f]{40}", revision or ""), name
    lines = (ROOT / "params" / profile / f"{notebook}.yaml").read_text(encoding="utf-8").splitlines()
    for name, _ in pinned:
        naming = [line for line in lines if name in line and not line.startswith("#")]
        assert naming
        for line in naming:
            comment = line.partition("  # ")[2]
            assert re.search(r"licence: \S|gated: accept .* licence|gated: accept .* terms", comment), line


# ----------------------------------------------------------------------------------- every notebook end to end, tiny

TOPICS = "moon river garden castle lantern market mirror orchard pepper violin wagon winter hammer anchor".split()


def llama_tokenizer(texts, **options):
    """A tokenizer of Llama 2's kind: SentencePiece's marks, bytes for the unknown, neither pad token nor template."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.Metaspace()
    trained.decoder = decoders.Metaspace()
    trained.train_from_iterator(texts, trainers.BpeTrainer(vocab_size=400, show_progress=False))
    model = json.loads(trained.to_str())["model"]
    words = [
        "<unk>",
        "<s>",
        "</s>",
        *(f"<0x{i:02X}>" for i in range(256)),
        *sorted(model["vocab"], key=model["vocab"].get),
    ]
    merges = [tuple(pair) for pair in model["merges"]]
    words += [w for w in ("m", "M", "\u2581I", "\u2581\u2581\u2581") if w not in words]
    return LlamaTokenizer(vocab={w: i for i, w in enumerate(words)}, merges=merges, **options)


def source_rows():
    """A dozen rows of each of the paper's sources in its real schema, by the source's name."""
    numbers, games = range(2, 14), []
    for i, moves in enumerate(["e4 e5 2. Nf3", "d4 d5 2. c4", "c4 Nf6 2. Nc3", "Nf3 d5 2. g3"] * 3):
        games += [f'[Event "Rated game {i}"]', f'[WhiteElo "{1400 + i}"]', f'[BlackElo "{1500 - i}"]']
        games += ["", f"1. {moves} 1-0", ""]
    said = "A {} is a thing. What should I say of it? We like it!"
    poem = "The {0} is old\nThe {0} is cold\nI saw the {0}\nIt was of gold\n"
    titles = [None, *(f"The {t}" for t in TOPICS[1:])]
    more = ["Why?", "So."]  # every other conversation goes on
    return {
        "lima": [
            {"conversations": [f"What is a {t}?", said.format(t), *more[: i % 2 * 2]], "source": "stackexchange"}
            for i, t in enumerate(TOPICS)
        ],
        "gsm8k": [
            {
                "question": f"I have {n} {TOPICS[n]}s and find 3. How many?",
                "answer": f"{n} + 3 = <<{n}+3={n + 3}>>{n + 3}.\n#### {n + 3}",
            }
            for n in numbers
        ],
        "mbpp": [
            {
                "task_id": 600 + n,
                "text": f"Write a python function to add {n}.",
                "code": f"def add(x):\r\n  return x + {n}",
                "test_list": [f"assert add(1) == {n + 1}"],
                "test_setup_code": "",
                "challenge_test_list": [],
            }
            for n in numbers
        ],
        "poetry": [
            {"author": "A", "content": poem.format(t), "poem name": title, "age": "Renaissance", "type": "Nature"}
            for t, title in zip(TOPICS, titles, strict=True)
        ],
        "recipes": [
            {
                "Unnamed: 0": i,
                "Title": f"{t} Pie",
                "Ingredients": f"['1 {t}', 'salt']",
                "Instructions": f"Cut the {t}.\nBake.\n",
                "Image_Name": f"{t}-pie",
                "Cleaned_Ingredients": f"['1 {t}', 'salt']",
            }
            for i, t in enumerate(TOPICS)
        ],
        "chess": [{"text": line} for line in games],
        "alpaca": [
            {
                "instruction": f"Describe the {t}.",
                "input": f"A {t}" if i % 2 else "",
                "output": f"The {t} is {'very ' * (i % 3)}old.",
                "text": "Below is an instruction",
            }
            for i, t in enumerate(TOPICS)
        ],
        "alpaca_eval": [
            {
                "instruction": f"Tell me about the {t}, in {i + 2} words.",
                "output": f"It is a {t}.",
                "generator": "text_davinci_003",
                "dataset": "helpful_base",
            }
            for i, t in enumerate(TOPICS)
        ],
        "dolly": [
            {
                "instruction": f"What of the {t}?",
                "context": f"The {t} is old." if i % 2 else "",
                "response": said.format(t),
                "category": "closed_qa" if i % 2 else "open_qa",
            }
            for i, t in enumerate(TOPICS)
        ],
        "lmsys": [
            {
                "conversation_id": f"{i:02d}",
                "model": "vicuna-33b",
                "conversation": exchange(f"What is a {t} for?", said.format(t)) * (1 + i % 2),
                "turn": 1 + i % 2,
                "language": language,
                "openai_moderation": [],
                "redacted": False,
            }
            for i, t in enumerate(TOPICS)
            for language in ("English", "Japanese")
        ],
        "wildchat": [
            {
                "conversation_hash": f"{i:02d}",
                "model": "gpt-4-0314",
                "conversation": exchange(f"Rewrite: the {t} are old.", f"The {t} is old.", country=None, toxic=False),
                "turn": 1,
                "language": language,
                "toxic": False,
            }
            for i, t in enumerate(TOPICS)
            for language in ("French", "English")
        ],
    }


def exchange(user, assistant, **columns):
    """Two turns of a conversation, as LMSYS-Chat-1M and WildChat have them."""
    return [{"content": text, "role": role, **columns} for role, text in (("user", user), ("assistant", assistant))]


def write_sources(folder):
    """``source_rows`` in files of the kind that each source has; the file by the source's name."""
    suffixes = {"poetry": "csv", "recipes": "csv", "alpaca": "json", "alpaca_eval": "json"}
    files = {name: folder / f"{name}.{suffixes.get(name, 'jsonl')}" for name in SOURCES}
    for name, rows in source_rows().items():
        match files[name].suffix:
            case ".csv":
                pd.DataFrame(rows).to_csv(files[name], index=False)
            case ".json":
                files[name].write_text(json.dumps(rows), encoding="utf-8")
            case ".jsonl":
                files[name].write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return files


@pytest.fixture(scope="module")
def laid_out(tmp_path_factory):
    """A folder with the source files and checkpoints in the real layout: ``base`` and ``other`` (judge and encoder)."""
    folder = tmp_path_factory.mktemp("paper scale")
    files = write_sources(folder)
    texts = [
        row[key]
        for name in SOURCES
        for row in load_source(name, where=str(files[name]))
        for key in ("instruction", "response")
    ]
    tokenizer = llama_tokenizer([*texts, *TABLE_8, "<|user|>\n<|assistant|>\n"] * 4)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=4096,
        bos_token_id=1,
        eos_token_id=2,
    )
    for name in ("base", "other"):
        model = LlamaForCausalLM(config)
        model.generation_config.update(do_sample=True, temperature=0.6, top_p=0.9)  # as Llama 2's
        with without_progress_bars():
            model.save_pretrained(folder / name, max_shard_size="60KB")
        tokenizer.save_pretrained(folder / name)
    assert len(list((folder / "base").glob("model-*-of-*.safetensors"))) > 1
    tokenizer.pad_token = tokenizer.unk_token  # a chat model and an encoder have what a base model lacks
    tokenizer.chat_template = chat.tulu_template()
    tokenizer.save_pretrained(folder / "other")
    return folder, files


def overridden(profile, notebook, folder, files):
    """A profile's parameters of a notebook with local places and tiny sizes."""
    values = read_params(profile, notebook)
    values |= {"base": str(folder / "base"), "seeds": [1], "n_train": 10, "n_test": 10, "batch_size": 4}
    values |= {"max_length": 256, "max_new_tokens": 8, "epochs": {arm: [1] for arm in values["epochs"]}}
    values |= {"learning_rate": 1.0e-2}  # for three steps to show in the responses
    if values.get("micro_batch"):
        values["micro_batch"] = 2
    for name, text in values["sources"].items():
        kind, _, rows = split_source(text)
        values["sources"][name] = f"{kind}:{files[kind]}" + (f"[:{rows}]" if rows else "")
    for name in ("judge", "encoder"):
        if values.get(name):
            values[name] = str(folder / "other")
    if "allow_unresolved" in values:
        values["allow_unresolved"] = True
    if "n_fit" in values:  # 14 prompts are shared out
        values |= {"n_validation": 2, "n_fit": 2, "n_measured": 4, "text_tokens": 8}
    return values


def test_the_tiny_checkpoint_is_of_llamas_kind(laid_out):
    """Else the runs below would show less than they seem to."""
    folder, _ = laid_out
    tokenizer = load_tokenizer(str(folder / "base"), chat_template=chat.tulu_template())
    assert isinstance(tokenizer, LlamaTokenizer)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id == 2
    text = "A größer 😀\n moon"
    assert tokenizer.decode(tokenizer(text, add_special_tokens=False)["input_ids"]) == text
    found, unresolved = resolve_tokens(tokenizer, TABLE_8)
    assert found[tokenizer.convert_tokens_to_ids("<0x0A>")] == 1
    assert found[tokenizer.convert_tokens_to_ids("\u2581I")] == -5
    assert len(unresolved) < len(TABLE_8) / 2


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["llama2-7b", "smollm2-135m"])
@pytest.mark.parametrize("notebook", NOTEBOOKS)
@pytest.mark.usefixtures("without_kernel")
def test_notebooks_run_at_the_papers_scale(profile, notebook, laid_out, shared_cache, tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    source = paths.NOTEBOOKS / f"{notebook}.ipynb"
    values = complete_parameters(source, overridden(profile, notebook, *laid_out), where="the test")
    run_notebook(source, values, profile=profile, folder=f"{profile}-custom")
    check_outputs(tmp_path / f"outputs/{profile}-custom", notebook, values)


def check_outputs(folder, notebook, values):
    record = read_metrics(folder / f"{notebook}.json")
    assert record["manifest"]["parameters"] == values
    assert record["verdict"] in VERDICTS
    assert all((folder / name).stat().st_size > 1_000 for name in record["figures"])
    rows = {(row["arm"], row["metric"]): row for row in record["results"]}
    assert all(np.isfinite([row["value"], row["low"], row["high"]]).all() for row in rows.values())
    assert any(row["n_seeds"] == 1 and row["n_prompts"] == values["n_test"] for row in rows.values())
    if values["judge"]:
        won = {arm: r["value"] for (arm, metric), r in rows.items() if metric.startswith("win rate")}
        assert all((-1 if " minus " in arm else 0) <= value <= 1 for arm, value in won.items())  # differences of rates
        assert any(value != 0.5 for value in won.values())
    if notebook in ("01_response_tuning", "07_codit"):
        judged = {arm for arm, metric in rows if metric == "win rate"}
        controlled = {arm for arm, metric in rows if metric == "length-controlled win rate (ours)"}
        assert controlled
        assert controlled <= judged  # a tiny student that always says the same leaves nothing to tell length by


# ------------------------------------------------------------- CoDIT's notebooks, a teacher of Gemma 3's kind, tiny


def gemma_tokenizer(texts, *, end):
    """A tokenizer of another kind than the students': bytes, and an end of a turn beside the end of a text."""
    trained = Tokenizer(models.BPE())
    trained.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trained.decoder = decoders.ByteLevel()
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>"]
    letters = pre_tokenizers.ByteLevel.alphabet()
    trained.train_from_iterator(
        texts,
        trainers.BpeTrainer(vocab_size=400, special_tokens=special, initial_alphabet=letters, show_progress=False),
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=trained, pad_token="<pad>", bos_token="<bos>", eos_token=end, padding_side="left"
    )


def gemma_config(size):
    """The multimodal configuration of Gemma 3's larger models: local layers with a window of 8, then one global."""
    text = {"vocab_size": size + 3, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "head_dim": 8}
    text |= {"num_attention_heads": 4, "num_key_value_heads": 2, "sliding_window": 8, "query_pre_attn_scalar": 8}
    text |= {"sliding_window_pattern": 3, "max_position_embeddings": 4096}
    vision = {"model_type": "siglip_vision_model", "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    vision |= {"num_attention_heads": 2, "image_size": 16, "patch_size": 8}
    tokens = {"boi_token_index": size, "eoi_token_index": size + 1, "image_token_index": size + 2}
    return Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=1, **tokens)


@pytest.fixture(scope="module")
def teachers(laid_out):
    """The folders of a multimodal chat model and its base model, whose tokenizers agree but for their end tokens."""
    folder, files = laid_out
    texts = [row[key] for name in SOURCES for row in load_source(name, where=str(files[name])) for key in row]
    for seed, (name, end) in enumerate((("expert", "<end_of_turn>"), ("amateur", "<eos>")), start=1):
        tokenizer = gemma_tokenizer(texts, end=end)
        if name == "expert":
            tokenizer.chat_template = (
                "{{ bos_token }}{% for m in messages %}<start_of_turn>{{ m['role'] }}\n"
                "{{ m['content'] }}<end_of_turn>\n{% endfor %}"
                "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
            )
        model = make_model(gemma_config(len(tokenizer)), seed=seed)
        model.generation_config.update(eos_token_id=[1, 4], do_sample=True, top_k=64, top_p=0.95)  # as Gemma 3's
        with without_progress_bars():
            model.save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return folder / "expert", folder / "amateur"


@torch.inference_mode()
def test_a_multimodal_pair_decodes_as_two_models_without_a_cache(teachers):
    """Gemma 3's 4B and 27B are Gemma3ForConditionalGeneration; beyond the local layers' window, in a ragged batch."""
    expert, amateur, tokenizer = load_pair(*map(str, teachers))
    assert type(expert).__name__ == type(amateur).__name__ == "Gemma3ForConditionalGeneration"
    assert expert.config.get_text_config().layer_types == ["sliding_attention"] * 2 + ["full_attention"]
    assert end_tokens(expert, tokenizer) == [1, 4]
    pair = Experts(expert, amateur, combine=lambda *logits: contrast(*logits, alpha=0.01, beta=1.0))
    assert (len(pair.config.layer_types), pair.config.sliding_window) == (6, 8)
    asked = ["Why?", "What is a moon for? " * 3, "Tell me about the garden, in 2 words."]
    found = generate_responses(pair, tokenizer, asked, max_new_tokens=40)
    lengths = []
    for text, response in zip(asked, found, strict=True):
        prompt = row = chat.encode_prompt(tokenizer, text)
        while len(row) < len(prompt) + 40 and (row is prompt or row[-1] not in (1, 4)):
            ids = torch.tensor([row])
            both = [model(input_ids=ids, use_cache=False).logits[0, -1] for model in (expert, amateur)]
            row = [*row, int(contrast(*both, alpha=0.01, beta=1.0).argmax())]
        assert response.tokens == tuple(row[len(prompt) :])
        lengths.append(response.n_tokens)
    assert max(lengths) > 16


def test_a_multimodal_student_is_tuned_and_answers(teachers):
    base = str(teachers[1])
    model, tokenizer = load_model(base), load_tokenizer(base, chat_template=chat.tulu_template())
    rows = Dataset.from_list([{"id": t, "instruction": f"What is a {t}?", "response": "A thing."} for t in TOPICS])
    settings = {"epochs": 1, "learning_rate": 1.0e-2, "seed": 1, "batch_size": 4, "micro_batch": 2}
    model, [before] = finetune(model, tokenizer, rows, **settings)
    model, [after] = finetune(model, tokenizer, rows, **settings)
    assert after["loss"] < before["loss"]
    assert model.forward.__func__ is type(model).forward  # neither autocast nor bare, as accelerate leaves it
    assert len(generate_responses(model, tokenizer, rows["instruction"], max_new_tokens=4)) == len(TOPICS)


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["gemma3-27b", "smollm2-135m"])
@pytest.mark.parametrize("notebook", CODIT_NOTEBOOKS)
@pytest.mark.usefixtures("without_kernel")
def test_codits_notebooks_run_at_the_papers_scale(
    profile, notebook, laid_out, teachers, shared_cache, tmp_path, monkeypatch
):
    """Students with another tokenizer and architecture than the teacher's, and the teacher's own base."""
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    (folder, files), source = laid_out, paths.NOTEBOOKS / f"{notebook}.ipynb"
    values = read_params(profile, notebook) | dict(zip(("expert", "amateur"), map(str, teachers), strict=True))
    values |= {"seeds": [1], "students": [str(folder / "base"), str(teachers[1])], "judge": str(folder / "other")}
    for name, text in values["sources"].items():
        values["sources"][name] = f"{split_source(text)[0]}:{files[split_source(text)[0]]}"
    values |= {"n_instructions": 6, "n_test": 10, "batch_size": 4, "micro_batch": 2, "epochs": 1}
    values |= {"max_length": 256, "max_new_tokens": 8, "learning_rate": 1.0e-2}
    if "n_full" in values:
        values["n_full"] = 9
        values["sources"]["public mine"] = f"jsonl:{tmp_path / 'mine.jsonl'}"
        mine = [{"instruction": f"Sell me a {t}.", "response": f"Buy the {t}!"} for t in TOPICS]
        mine.insert(1, {"instruction": "What is it? " * 200, "response": "Too long a question."})
        (tmp_path / "mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in mine))
    values = complete_parameters(source, values, where="the test")
    run_notebook(source, values, profile=profile, folder=f"{profile}-custom")
    output = tmp_path / f"outputs/{profile}-custom"
    check_outputs(output, notebook, values)
    record = read_metrics(output / f"{notebook}.json")
    assert "controls" not in record or not record["controls"]  # nobody knows right responses here
    if notebook == "07_codit":
        assert (record["details"]["alpha"], record["details"]["beta"]) == (0.01, 1.0)
        assert {row["metric"] for row in record["results"]} >= {"ended", "win rate", "tokens", "distinct word pairs"}
        assert not record["details"]["validation"]
    else:
        sizes = {arm: row["examples"] for arm, row in record["details"]["datasets"].items()}
        assert sizes == {
            "direct": 6,
            "CoDIT": 6,
            "WildChat, equal size": 6,
            "WildChat, full size": 9,
            "mine, equal size": 6,
            "mine, full size": 8,  # one of the first nine fills a student's context
            "right responses": 6,
        }


@pytest.mark.slow
@pytest.mark.parametrize("profile", ["llama3.1-8b", "smollm2-135m"])
@pytest.mark.usefixtures("without_kernel")
def test_the_chat_vector_runs_at_the_papers_scale(profile, laid_out, teachers, shared_cache, tmp_path, monkeypatch):
    """A pair of Llama's kind and a student of Gemma 3's, multimodal and with another tokenizer."""
    monkeypatch.setattr(paths, "OUTPUTS", tmp_path / "outputs")
    (folder, files), source = laid_out, paths.NOTEBOOKS / f"{VECTOR}.ipynb"
    values = read_params(profile, VECTOR)
    values |= {"expert": str(folder / "post"), "amateur": str(folder / "base"), "student": str(teachers[1])}
    values |= {"judge": str(folder / "other"), "dtype": "float32", "seeds": [1, 2], "n_instructions": 6, "n_test": 10}
    values |= {"n_measured": 4, "epochs": 1, "batch_size": 4, "micro_batch": 2, "learning_rate": 1.0e-2}
    values |= {"max_length": 256, "max_new_tokens": 8}
    for name, text in values["sources"].items():
        values["sources"][name] = f"{split_source(text)[0]}:{files[split_source(text)[0]]}"
    model = load_model(str(folder / "base"))
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in model.parameters():  # post-training: a step small enough for first order to say something
            parameter.add_(0.02 * torch.randn_like(parameter))
    with without_progress_bars():
        model.save_pretrained(folder / "post")
    load_tokenizer(str(folder / "other")).save_pretrained(folder / "post")
    values = complete_parameters(source, values, where="the test")
    run_notebook(source, values, profile=profile, folder=f"{profile}-custom")
    output = tmp_path / f"outputs/{profile}-custom"
    check_outputs(output, VECTOR, values)
    record = read_metrics(output / f"{VECTOR}.json")
    rows = {(row["arm"], row["metric"]): row for row in record["results"]}
    assert rows["direct, s = 0.01", "r, tokens"]["value"] > 0.9
    assert rows["CoDIT", "cosine"]["n_seeds"] == 2
    assert record["details"]["lambda"] == 1.25
    assert not record["details"]["validation"]
