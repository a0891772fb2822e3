"""The paper's datasets in their real schemas: tiny files written here, and real rows of shared/data where present."""

import json
from pathlib import Path

import datasets
import huggingface_hub
import pandas as pd
import pytest
from datasets.arrow_writer import ArrowWriter
from tacit.data.sources import SOURCES, load_source
from tacit.support import paths
from tacit.support.errors import TacitError

SHARED = Path(__file__).parents[4] / "shared/data"
REVISION, OTHER = "a" * 40, "b" * 40
RECIPE = {
    "Unnamed: 0": 0,
    "Title": "Crème brûlée",
    "Ingredients": "['1 cup cream, \"heavy\"', '½ tsp salt']",
    "Instructions": "Whisk.\nBake.\n",
    "Image_Name": "creme-brulee",
    "Cleaned_Ingredients": '[\'1 cup cream, "heavy"\', "cook\'s sugar"]',
}
RECIPE_PAIR = (
    "Recipe for Crème brûlée",
    '- 1 cup cream, "heavy"\n - cook\'s sugar\n\n\nWhisk.\nBake.',
)
GAME = """[Event "Rated Blitz game"]
[Site "https://lichess.org/x"]
[White "a"]
[Black "b"]
[WhiteElo "1639"]
[BlackElo "1403"]
[WhiteRatingDiff "+5"]

1. e4 { [%clk 0:05:00] } e5 2. Nf3 1-0

"""
ABANDONED = '[Event "Rated"]\n[WhiteElo "1500"]\n[BlackElo "1400"]\n\n0-1\n\n'
NO_ELO = '[Event "Rated"]\n[WhiteElo "1500"]\n\n1. d4 d5 0-1\n\n'


def write(path, rows):
    """Write rows as the file's suffix says."""
    frame = pd.DataFrame(rows)
    match path.suffix:
        case ".json":
            path.write_text(json.dumps(rows), encoding="utf-8")
        case ".jsonl":
            path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
        case ".csv":
            frame.to_csv(path, index=False)
        case ".parquet":
            frame.to_parquet(path)
    return str(path)


def load(tmp_path, name, rows, *, suffix=".jsonl", n=None):
    return load_source(name, where=write(tmp_path / f"data{suffix}", rows), n=n)


def pairs(loaded):
    assert loaded.column_names == ["id", "instruction", "response"]
    return list(zip(loaded["instruction"], loaded["response"], strict=True))


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
def test_lima_keeps_the_first_exchange(tmp_path, suffix):
    conversations = [["Why?", "Because.", "Sure?", "Yes."], ["A test prompt"], [], ["größer 😀\u2028?", " kleiner\n"]]
    rows = [{"conversations": turns, "source": "multi_turn"} for turns in conversations]
    loaded = load(tmp_path, "lima", rows, suffix=suffix)
    assert pairs(loaded) == [("Why?", "Because."), ("größer 😀\u2028?", "kleiner")]
    assert loaded["id"] == ["lima-0", "lima-3"]


def test_lima_in_another_form_is_refused(tmp_path):
    turns = [{"from": "human", "value": "Why?"}, {"from": "gpt", "value": "Because."}]
    with pytest.raises(TacitError, match=r"row 0 .*'conversations' must be a list of texts"):
        load(tmp_path, "lima", [{"conversations": turns}])


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".csv", ".parquet"])
def test_mbpp_full_and_sanitized(tmp_path, suffix):
    code = "def f(x):\r\n  return x\r\n\r\nprint('a\\r')"
    for column in ("text", "prompt"):
        rows = [{"task_id": 601, column: "Write a function.", "code": code, "test_list": "[]"}]
        loaded = load(tmp_path, "mbpp", rows, suffix=suffix)
        assert pairs(loaded) == [("Write a function.", "def f(x):\n  return x\n\nprint('a\\r')")]


def test_gsm8k_keeps_annotations_and_duplicates_get_ids_of_their_own(tmp_path):
    row = {"question": "How many?", "answer": "48/2 = <<48/2=24>>24.\n#### 24"}
    loaded = load(tmp_path, "gsm8k", [row, row, row | {"answer": " "}, row], suffix=".csv")
    assert pairs(loaded) == [("How many?", "48/2 = <<48/2=24>>24.\n#### 24")] * 3
    assert loaded["id"] == ["gsm8k-0", "gsm8k-1", "gsm8k-3"]


def test_numbers_in_csv_are_texts(tmp_path):
    assert pairs(load(tmp_path, "gsm8k", [{"question": "48/2?", "answer": "024"}], suffix=".csv")) == [("48/2?", "024")]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_recipes_list_the_cleaned_ingredients(tmp_path, suffix):
    rows = [RECIPE, RECIPE | {"Title": None}, RECIPE | {"Instructions": None}, RECIPE | {"Cleaned_Ingredients": None}]
    assert pairs(load(tmp_path, "recipes", rows, suffix=suffix)) == [RECIPE_PAIR]


@pytest.mark.parametrize("suffix", [".json", ".parquet"])
def test_recipes_take_real_lists_and_the_plain_column(tmp_path, suffix):
    cleaned = RECIPE | {"Cleaned_Ingredients": ['1 cup cream, "heavy"', "cook's sugar"]}
    assert pairs(load(tmp_path, "recipes", [cleaned], suffix=suffix)) == [RECIPE_PAIR]
    plain = {k: v for k, v in RECIPE.items() if k != "Cleaned_Ingredients"}
    response = '- 1 cup cream, "heavy"\n - ½ tsp salt\n\n\nWhisk.\nBake.'
    assert pairs(load(tmp_path, "recipes", [plain], suffix=suffix)) == [(RECIPE_PAIR[0], response)]


@pytest.mark.parametrize("bad", ["__import__('os').system('touch {}')", "['salt'", "{{'salt': 1}}", "[1, 2]", ""])
def test_malformed_ingredients_are_named_and_never_run(tmp_path, bad):
    bad = bad.format(tmp_path / "ran")
    with pytest.raises(TacitError, match=r"data\.json, row 1 \(counted from 0\): the ingredients of 'Pie'"):
        load(tmp_path, "recipes", [RECIPE, RECIPE | {"Title": "Pie", "Cleaned_Ingredients": bad}], suffix=".json")
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_poems_without_a_name_are_skipped(tmp_path, suffix):
    poem = {
        "author": "A",
        "content": "Über allen\nGipfeln\n",
        "poem name": "Ein Gleiches",
        "age": "R",
        "type": "Nature",
    }
    rows = [poem | {"poem name": None}, poem, poem | {"poem name": " \n"}, poem | {"content": None}]
    loaded = load(tmp_path, "poetry", rows, suffix=suffix)
    assert pairs(loaded) == [("Write a poem called Ein Gleiches", "Über allen\nGipfeln")]
    assert loaded["id"] == ["poetry-1"]


@pytest.mark.parametrize("suffix", [".csv", ".jsonl", ".parquet"])
def test_chess_lines_become_games(tmp_path, suffix):
    lines = [{"text": line} for line in (GAME + ABANDONED + NO_ELO + GAME.replace("1639", "?")).split("\n")]
    loaded = load(tmp_path, "chess", lines, suffix=suffix)
    moves = "1. e4 { [%clk 0:05:00] } e5 2. Nf3 1-0"
    assert pairs(loaded) == [
        ('[WhiteElo "1639"]\n[BlackElo "1403"]', moves),
        ('[WhiteElo "?"]\n[BlackElo "1403"]', moves),
    ]
    assert loaded["id"] == ["chess-0", "chess-2"]
    whole = load(tmp_path, "chess", [{"text": GAME}, {"text": NO_ELO}, {"text": GAME}])
    assert whole["response"] == [moves] * 2


def test_chess_reads_no_more_lines_than_it_needs(tmp_path):
    rows = [{"text": GAME}, {"text": 3}]
    assert len(load(tmp_path, "chess", rows, n=1)) == 1
    with pytest.raises(TacitError, match="'text' must hold texts, this is 3"):
        load(tmp_path, "chess", rows, n=2)


def test_alpaca_appends_its_input_after_a_blank_line(tmp_path):
    rows = [
        {"instruction": "Add.", "input": "1, 2", "output": "3", "text": "Below is ..."},
        {"instruction": "Greet. ", "input": " ", "output": "Hi", "text": ""},
        {"instruction": "Greet.", "input": None, "output": "Hi", "text": ""},
        {"instruction": "Say nothing.", "input": "", "output": "", "text": ""},
    ]
    assert pairs(load(tmp_path, "alpaca", rows)) == [("Add.\n\n1, 2", "3"), ("Greet.", "Hi"), ("Greet.", "Hi")]


def test_dolly_appends_its_context_after_a_blank_line(tmp_path):
    rows = [
        {"instruction": "Who ran? ", "context": "He ran [1].\n", "response": " He.\n", "category": "closed_qa"},
        {"instruction": "Greet.", "context": "", "response": "Hi", "category": "open_qa"},
        {"instruction": "Greet.", "context": None, "response": "Hi", "category": "open_qa"},
        {"instruction": " ", "context": "", "response": "Hi", "category": "open_qa"},
        {"instruction": "Say nothing.", "context": "", "response": "", "category": "open_qa"},
    ]
    loaded = load(tmp_path, "dolly", rows)
    assert pairs(loaded) == [("Who ran?\n\nHe ran [1].", "He."), ("Greet.", "Hi"), ("Greet.", "Hi")]
    assert loaded["id"] == ["dolly-0", "dolly-1", "dolly-2"]


def test_dolly_skips_contexts_that_are_whole_articles(tmp_path):
    """Else a prompt alone could fill the 1,024 tokens of the small profiles, which ends their tuning."""
    row = {"instruction": "Sum up.", "response": "Long.", "category": "summarization"}
    rows = [row | {"context": "a" * n} for n in (2000 - len("Sum up.\n\n"), 2001 - len("Sum up.\n\n"))]
    loaded = load(tmp_path, "dolly", [*rows, row | {"context": ""}])
    assert loaded["id"] == ["dolly-0", "dolly-2"]
    assert len(loaded["instruction"][0]) == 2000
    assert load(tmp_path, "dolly", [row | {"context": "", "response": "word " * 2000}])["id"] == ["dolly-0"]


def test_alpaca_eval(tmp_path):
    row = {"instruction": "What?", "output": "That.", "generator": "text_davinci_003", "dataset": "helpful_base"}
    assert pairs(load(tmp_path, "alpaca_eval", [row], suffix=".json")) == [("What?", "That.")]


def conversation(*texts, language="English", **columns):
    """A row of LMSYS-Chat-1M: turns of user and assistant in alternation."""
    turns = [{"content": text, "role": ("user", "assistant")[i % 2]} for i, text in enumerate(texts)]
    moderation = [{"categories": {"violence": False}, "category_scores": {"violence": 0.1}, "flagged": False}] * len(
        turns
    )
    row = {"conversation_id": "0a", "model": "vicuna-33b", "conversation": turns, "turn": len(texts) // 2}
    return row | {"language": language, "openai_moderation": moderation, "redacted": False} | columns


def wild(row):
    """The same as a row of WildChat-1M, whose turns have more columns, some of them null."""
    who = {"country": "Japan", "hashed_ip": "f0", "language": "English", "redacted": False, "state": None}
    turns = [{**turn, **who, "toxic": False, "turn_identifier": 1, "timestamp": None} for turn in row["conversation"]]
    renamed = {key: row[key] for key in ("model", "turn", "language", "openai_moderation", "redacted")}
    return {"conversation_hash": "0a", "timestamp": None, "conversation": turns, **renamed, "toxic": False}


@pytest.mark.parametrize("suffix", [".json", ".jsonl", ".parquet"])
@pytest.mark.parametrize(("name", "layout"), [("lmsys", dict), ("wildchat", wild)])
def test_conversations_give_their_first_exchange_in_english(tmp_path, name, layout, suffix):
    rows = [
        conversation("größer 😀\u2028?", " kleiner\n", "And now?", "No."),
        conversation("Wie geht's?", "Gut.", language="German"),
        conversation("Nobody answers"),
        conversation(" ", "Pardon?", "Why?", "Because."),
        conversation("Why?", None),
        conversation("Why?", "Because."),
        conversation("Hola", "Hola", language=None),
        conversation("Why?", "Because.", "And?"),
    ]
    loaded = load(tmp_path, name, [layout(row) for row in rows], suffix=suffix)
    assert pairs(loaded) == [("größer 😀\u2028?", "kleiner"), ("Why?", "Because."), ("Why?", "Because.")]
    assert loaded["id"] == [f"{name}-0", f"{name}-5", f"{name}-7"]


def test_a_response_answers_the_first_user_turn(tmp_path):
    system, user, assistant = ({"role": role, "content": role.upper()} for role in ("system", "user", "assistant"))
    turns = [[system, user, assistant], [assistant, user, assistant], [user, user, assistant], [assistant, user], []]
    rows = [conversation(conversation=part) for part in turns]
    loaded = load(tmp_path, "lmsys", rows)
    assert pairs(loaded) == [("USER", "ASSISTANT")] * 2
    assert loaded["id"] == ["lmsys-0", "lmsys-1"]


@pytest.mark.parametrize("name", ["lmsys", "wildchat"])
@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ({"conversation": None}, "'conversation' must be a list of turns, this is None"),
        ({"conversation": "[{'role': 'user'}]"}, "'conversation' must be a list of turns"),
        ({"conversation": ["Why?", "Because."]}, "'conversation' must be a list of turns"),
        ({"conversation": [{"from": "human", "value": "Why?"}]}, "no column 'role'; the columns are from, value"),
        ({"conversation": [{"role": "user"}]}, "no column 'content'"),
        ({"conversation": [{"role": "user", "content": ["Why?"]}]}, "'content' must hold texts"),
        ({"language": 3}, "'language' must hold texts, this is 3"),
    ],
)
def test_malformed_conversations_are_named(tmp_path, name, broken, message):
    rows = [conversation("Why?", "Because."), conversation("Why?", "Because.") | broken]
    with pytest.raises(TacitError, match=r"data\.jsonl, row 1 \(counted from 0\): .*") as caught:
        load(tmp_path, name, rows)
    assert message in str(caught.value)
    assert len(load(tmp_path, name, rows, n=1)) == 1  # reads no further than it needs


def test_conversations_of_another_dataset_are_refused(tmp_path):
    with pytest.raises(TacitError, match=r"row 0 .*no column 'language'; the columns are conversation"):
        load(tmp_path, "wildchat", [{"conversation": []}])
    with pytest.raises(TacitError, match="no row that is usable as lmsys"):
        load(tmp_path, "lmsys", [conversation("Bonjour", "Salut", language="French")])


def test_jsonl_keeps_its_own_ids(tmp_path):
    rows = [{"instruction": "A", "response": "B", "id": "x", "more": 1}, {"instruction": "C"}]
    loaded = load(tmp_path, "jsonl", rows)
    assert pairs(loaded) == [("A", "B"), ("C", "")]
    assert loaded["id"][0] == "x"
    assert load(tmp_path, "jsonl", rows, n=1)["instruction"] == ["A"]
    assert len(load(tmp_path, "jsonl", rows, n=9)) == 2


def test_n_counts_usable_rows(tmp_path):
    rows = [{"poem name": name, "content": f"poem {name}"} for name in ("a", None, "b", "c")]
    assert load(tmp_path, "poetry", rows, n=2)["id"] == ["poetry-0", "poetry-2"]
    assert len(load(tmp_path, "poetry", rows, n=9)) == 3
    with pytest.raises(TacitError, match="n must be at least 1"):
        load(tmp_path, "poetry", rows, n=0)


def test_relative_paths_start_at_the_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(paths, "ROOT", tmp_path)
    (tmp_path / "data").mkdir()
    write(tmp_path / "data/rows.json", [{"question": "Q", "answer": "A"}])
    assert pairs(load_source("gsm8k", where="data/rows.json")) == [("Q", "A")]


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(TacitError, match="unknown source 'limo'") as caught:
        load_source("limo", where="x.json")
    assert all(name in str(caught.value) for name in [*SOURCES, "jsonl"])


@pytest.mark.parametrize("name", SOURCES)
def test_a_missing_column_is_named_with_the_file_and_its_columns(tmp_path, name):
    with pytest.raises(TacitError, match=r"data\.csv, row 0 .*no column '.+'; the columns are author, title"):
        load(tmp_path, name, [{"author": "a", "title": "b"}], suffix=".csv")


def test_a_value_of_another_kind_is_named(tmp_path):
    with pytest.raises(TacitError, match=r"row 1 .*'answer' must hold texts, this is 24"):
        load(tmp_path, "gsm8k", [{"question": "Q", "answer": "A"}, {"question": "Q", "answer": 24}])


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("data.json", '{"question": "Q"}', "must hold a list of JSON objects"),
        ("data.json", "[1]", "must hold a list of JSON objects"),
        ("data.json", "[", "JSONDecodeError"),
        ("data.json", "[]", "no row that is usable as gsm8k"),
        ("data.jsonl", '{"question": "Q", "answer": ""}\n\n', "no row that is usable as gsm8k"),
        ("data.csv", "", "EmptyDataError"),
        ("data.csv", "question,answer\n", "no row that is usable as gsm8k"),
        ("data.parquet", "PAR1", "Arrow"),
        ("data.pkl", "x", r"ends in \.json, \.jsonl, \.csv, \.parquet"),
    ],
)
def test_unreadable_files_are_named(tmp_path, file, content, message):
    (tmp_path / file).write_text(content)
    with pytest.raises(TacitError, match=message) as caught:
        load_source("gsm8k", where=str(tmp_path / file))
    assert file in str(caught.value)


@pytest.mark.parametrize(
    "where", ["nothing.jsonl", "data/nothing.csv", "a/b/c", "openai/gsm8k@main", "gsm8k", "a/b@abc"]
)
def test_what_is_neither_a_file_nor_a_hub_id_is_refused(where):
    with pytest.raises(TacitError, match=f"no file {where}, looked for as .*, and no hub id"):
        load_source("gsm8k", where=where)


@pytest.fixture
def offline(tmp_path, monkeypatch):
    """Hub and caches of this test alone, out of reach of the network; returns where the caches lie."""
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "datasets")
    return tmp_path


@pytest.mark.parametrize("name", SOURCES)
def test_an_unreachable_hub_says_which_id_and_what_to_do(offline, name):
    with pytest.raises(TacitError) as caught:
        load_source(name, where=f"nobody/nothing@{REVISION}")
    assert f"cannot load nobody/nothing@{REVISION} from the hub" in str(caught.value)
    for advice in ("HF_HUB_OFFLINE", "accept its licence at https://huggingface.co/datasets/nobody/nothing", "hf auth"):
        assert advice in str(caught.value)


def test_only_the_pinned_revision_is_taken_from_the_cache(offline):
    """datasets itself falls back to whatever revision it has (huggingface/datasets#7928)."""
    folder = offline / "datasets/openai___gsm8k/main/0.0.0" / REVISION
    folder.mkdir(parents=True)
    with ArrowWriter(path=str(folder / "gsm8k-train.arrow")) as writer:
        writer.write({"question": "Q", "answer": "A"})
        writer.finalize()
    info = {"config_name": "main", "splits": {"train": {"name": "train", "num_examples": 1, "dataset_name": "gsm8k"}}}
    (folder / "dataset_info.json").write_text(json.dumps(info))
    for where in (f"openai/gsm8k@{REVISION}", "openai/gsm8k"):
        assert pairs(load_source("gsm8k", where=where)) == [("Q", "A")]
    assert len(datasets.load_dataset("openai/gsm8k", "main", split="train", revision=OTHER)) == 1
    with pytest.raises(TacitError, match=f"openai/gsm8k@{OTHER}: datasets' cache holds another revision"):
        load_source("gsm8k", where=f"openai/gsm8k@{OTHER}")


@pytest.mark.parametrize(
    ("name", "repository", "file", "row"),
    [
        ("lima", "GAIR/lima", "train.jsonl", {"conversations": ["Q", "A"]}),
        ("alpaca_eval", "tatsu-lab/alpaca_eval", "alpaca_eval.json", {"instruction": "Q", "output": "A"}),
        (
            "dolly",
            "databricks/databricks-dolly-15k",
            "databricks-dolly-15k.jsonl",
            {"instruction": "Q", "context": "", "response": "A", "category": "open_qa"},
        ),
    ],
)
def test_repositories_of_one_data_file_are_read_from_it(offline, name, repository, file, row):
    folder = offline / f"hub/datasets--{repository.replace('/', '--')}/snapshots" / REVISION
    folder.mkdir(parents=True)
    (folder / f"test_{file}").write_text("not this one")
    write(folder / file, [row])
    assert pairs(load_source(name, where=f"{repository}@{REVISION}")) == [("Q", "A")]
    with pytest.raises(TacitError, match=f"cannot load {repository}@{OTHER}"):
        load_source(name, where=f"{repository}@{OTHER}")


def test_configuration_split_and_revision_on_the_hub(tmp_path, monkeypatch):
    asked = []

    def refuse(*args, **kwargs):
        asked.append((*args, kwargs["split"], kwargs["revision"], "trust_remote_code" in kwargs))
        raise RuntimeError("Dataset scripts are no longer supported\nmore")

    monkeypatch.setattr("tacit.data.sources.load_dataset", refuse)
    for name in ("gsm8k", "mbpp", "poetry"):
        with pytest.raises(TacitError, match=r"supported\): check"):
            load_source(name, where=f"some/where@{REVISION}")
    assert asked == [("some/where", config, "train", REVISION, False) for config in ("main", "full", None)]


needs_rows = pytest.mark.skipif(not SHARED.is_dir(), reason="shared/data with real rows is not here")


@needs_rows
def test_real_rows_of_gsm8k():
    loaded = load_source("gsm8k", where=str(SHARED / "gsm8k_train_head.jsonl"))
    assert len(loaded) == len(set(loaded["id"])) == 60
    assert loaded[0]["instruction"].startswith("Natalia sold clips to 48 of her friends in April")
    assert loaded[0]["response"].endswith("48+24 = <<48+24=72>>72 clips altogether in April and May.\n#### 72")
    assert all("\n#### " in response for response in loaded["response"])


@needs_rows
def test_real_rows_of_sanitized_mbpp():
    loaded = load_source("mbpp", where=str(SHARED / "mbpp_sanitized_head.json"), n=2)
    assert loaded["instruction"][1] == "Write a function to find squares of individual elements in a list."
    assert loaded["response"][1].startswith("def square_nums(nums):\n square_nums = list(map(")


@needs_rows
def test_real_rows_of_another_dataset_are_refused():
    with pytest.raises(TacitError, match=r"ifeval_head\.jsonl, row 0 .*no column 'question'; .*instruction_id_list"):
        load_source("gsm8k", where=str(SHARED / "ifeval_head.jsonl"))
