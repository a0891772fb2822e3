"""Similarity of texts: encoders and measures against numpy, scipy and one text at a time."""

import copy
import math
from collections import Counter

import numpy as np
import pytest
import torch
from scipy import stats
from tacit.findings import similarity
from tacit.findings.similarity import (
    content_words,
    make_encoder,
    mean_similarity,
    rank_correlation,
    similarity_bins,
    style_adherence,
    task_words,
)
from tacit.microworld.examples import draw_examples
from tacit.microworld.styles import OWN_FAMILIES, draw_near_domain
from tacit.microworld.tasks import FAMILIES
from tacit.support.errors import TacitError
from transformers import AutoModel, BertConfig, BertModel

CORPUS = ["Red apple.", "red pear", "A green apple, a red apple", "moon"]
WORDS = ["red", "apple", ".", "pear", "a", "green", ",", "moon"]


def weigh(text):
    """The text's vector by hand: 1 + log of the count, times log((1 + n) / (1 + n with the word)) + 1, unit length."""
    split = {c: c.lower().replace(".", " .").replace(",", " ,").split() for c in [*CORPUS, text]}
    found = {word: sum(word in split[c] for c in CORPUS) for word in WORDS}
    counts = Counter(split[text])
    vector = np.array(
        [
            (1 + math.log(counts[word])) * (math.log((1 + len(CORPUS)) / (1 + found[word])) + 1)
            if counts[word]
            else 0.0
            for word in WORDS
        ]
    )
    return vector / (np.linalg.norm(vector) or 1.0)


def test_tfidf_by_hand():
    encode = make_encoder("tfidf", corpus=CORPUS)
    texts = [*CORPUS, "a red red RED pear.", "moon, moon", "red zebra"]
    rows = encode(texts)
    np.testing.assert_allclose(np.linalg.norm(rows, axis=1), 1.0)
    expected = np.array([[weigh(a) @ weigh(b) for b in texts] for a in texts])
    np.testing.assert_allclose(rows @ rows.T, expected, atol=1e-12)
    assert 0 < expected[0, 1] < expected[0, 2] < 1


def test_words_that_are_not_in_the_corpus_count_nothing():
    encode = make_encoder("tfidf", corpus=CORPUS)
    rows = encode(["red", "zebra red lion", "zebra lion"])
    np.testing.assert_allclose(rows[0], rows[1])
    assert not rows[2].any()


@pytest.fixture
def encoder(tmp_path, tokenizer):
    """A tiny sentence encoder on the disk: attention both ways, absolute positions, padding on the right."""
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=len(tokenizer), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=64, pad_token_id=tokenizer.pad_token_id,
    )  # fmt: skip
    model = BertModel(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    model.save_pretrained(tmp_path / "encoder")
    own = copy.deepcopy(tokenizer)
    own.padding_side, own.model_max_length = "right", 16
    own.save_pretrained(tmp_path / "encoder")
    return str(tmp_path / "encoder")


def test_a_sentence_encoder_is_the_mean_over_the_tokens_of_one_text_at_a_time(encoder, tokenizer, monkeypatch):
    texts = [
        "Hi",
        "Where does the dirde live, and why?",
        "moon",
        "A text that is longer than the others, or so. " * 3,
        "Hi",
    ]
    model = AutoModel.from_pretrained(encoder).eval()
    expected = []
    for text in texts:
        ids = torch.tensor([tokenizer(text, add_special_tokens=False)["input_ids"][:16]])
        with torch.no_grad():
            mean = model(ids).last_hidden_state[0].mean(dim=0)
        expected.append((mean / mean.norm()).numpy())
    for batch in (2, 64):
        monkeypatch.setattr(similarity, "BATCH_TEXTS", batch)
        rows = make_encoder(encoder, corpus=[])(texts)
        np.testing.assert_allclose(rows, np.array(expected), atol=1e-5)
    assert np.abs(expected[0] - expected[1]).max() > 0.1


def test_an_empty_text_is_a_vector_of_zeros(encoder):
    rows = make_encoder(encoder, corpus=[])(["", "Where does the dirde live?"])
    np.testing.assert_array_equal(rows[0], np.zeros(32))
    np.testing.assert_allclose(np.linalg.norm(rows[1]), 1.0, atol=1e-6)


@pytest.mark.parametrize("name", ["outputs/models/nothing", "nobody/nothing", "nobody/nothing@" + "0" * 40])
def test_an_encoder_that_is_not_there_is_named(name):
    with pytest.raises(TacitError, match=name.split("@")[0]):
        make_encoder(name, corpus=[])


VECTORS = {
    "east": [1.0, 0.0],
    "north": [0.0, 1.0],
    "north-east": [math.sqrt(0.5), math.sqrt(0.5)],
    "west": [-1.0, 0.0],
    "nowhere": [0.0, 0.0],
}


def compass(texts):
    return np.array([VECTORS[text] for text in texts])


def test_mean_similarity_and_adherence_by_hand():
    texts, half = list(VECTORS), math.sqrt(0.5)
    to_reference = mean_similarity(compass, texts, ["east", "north", "east"])
    np.testing.assert_allclose(to_reference, [2 / 3, 1 / 3, half, -2 / 3, 0.0])
    adherence = style_adherence(compass, texts, narrow=["east", "north-east"], broad=["west", "north"])
    expected = [(1 + half) / 2 + 1 / 2, half / 2 - 1 / 2, (half + 1) / 2, -(1 + half) / 2 - 1 / 2, 0.0]
    np.testing.assert_allclose(adherence, expected, atol=1e-12)


def draws(n_seeds, n_prompts, *, slope):
    """Similarities with ties, and one noisy row per seed that rises with them by ``slope``."""
    rng = np.random.default_rng(0)
    x = rng.integers(0, 8, size=n_prompts) / 8
    return x, np.round(slope * x + rng.normal(scale=0.4, size=(n_seeds, n_prompts)), 1)


def test_rank_correlation_of_one_seed_is_spearmans():
    x, y = draws(1, 60, slope=1.0)
    assert len(set(x)) < 60 > len(set(y[0]))  # ties on both sides
    ours = rank_correlation(x, y)
    assert ours.value == pytest.approx(stats.spearmanr(x, y[0]).statistic)
    assert (ours.n_seeds, ours.n_prompts) == (1, 60)
    assert ours == rank_correlation(np.exp(3 * x), y)  # ranks alone count
    assert rank_correlation(x, -y).value == pytest.approx(-ours.value)


def test_rank_correlation_of_several_seeds_is_their_mean_with_an_interval():
    x, y = draws(4, 80, slope=0.8)
    ours = rank_correlation(x, y)
    assert ours.value == pytest.approx(np.mean([stats.spearmanr(x, row).statistic for row in y]))
    assert -1 <= ours.low < ours.value < ours.high <= 1
    assert ours.low > 0
    wider = rank_correlation(x[:20], y[:, :20])
    assert wider.high - wider.low > ours.high - ours.low


def test_the_interval_of_a_rank_correlation_covers_at_about_its_level():
    """Of independent numbers, whose correlation is 0."""
    rng = np.random.default_rng(1)
    hits = 0
    for _ in range(50):
        drawn = rank_correlation(rng.normal(size=40), rng.normal(size=(1, 40)), n_resamples=100)
        hits += drawn.low <= 0 <= drawn.high
    assert hits >= 42


def test_a_style_that_never_varies_correlates_with_nothing():
    x, y = draws(2, 30, slope=1.0)
    y[1] = 0.0
    half = rank_correlation(x, y)
    assert half.value == pytest.approx(stats.spearmanr(x, y[0]).statistic / 2)
    assert rank_correlation(x, np.zeros((2, 30))).value == 0.0


@pytest.mark.filterwarnings("error")
def test_similarities_that_hardly_vary_still_have_an_interval():
    """All prompts but one share no word with the task: many resamples then hold one similarity alone."""
    x, y = np.eye(12)[3], draws(2, 12, slope=0.0)[1]
    ours = rank_correlation(x, y)
    assert ours.value == pytest.approx(np.mean([stats.spearmanr(x, row).statistic for row in y]))
    assert -1 <= ours.low <= ours.value <= ours.high <= 1
    assert rank_correlation(np.zeros(12), y).value == 0.0


@pytest.mark.parametrize(("x", "y"), [([1, 2, 3], [1, 2, 3]), ([1, 2, 3], [[1, 2]]), ([[1, 2]], [[1, 2]])])
def test_other_shapes_are_refused(x, y):
    with pytest.raises(ValueError, match=r"x \[prompts\] and y \[seeds, prompts\]"):
        rank_correlation(x, y)


def test_bins_hold_equally_many_up_to_one_the_least_similar_first():
    assert similarity_bins([0.3, 0.1, 0.9, 0.2], n_bins=2).tolist() == [2, 1, 2, 1]
    assert similarity_bins([0.5] * 40, n_bins=2).tolist() == [1] * 20 + [2] * 20  # ties by position
    x = np.random.default_rng(0).normal(size=23)
    bins = similarity_bins(x, n_bins=5)
    counts = Counter(bins.tolist())
    assert sorted(counts) == [1, 2, 3, 4, 5]
    assert max(counts.values()) - min(counts.values()) == 1
    assert all(x[bins == b].max() < x[bins == b + 1].min() for b in range(1, 5))
    assert similarity_bins([0.7, 0.2], n_bins=1).tolist() == [1, 1]


def test_content_words_are_neither_stop_words_nor_single_numbers():
    assert content_words("What is 12 + 13?") == {"0"}
    assert content_words("Mira has 12 shells and FINDS more_shells.") == {"mira", "0", "shells", "finds"}
    assert content_words("What is it?") == content_words("") == set()


def test_task_words_by_hand():
    task = [
        "Write a poem about the moon.",
        "Write a poem about the sea.",
        "Compose a poem on 3 moons!",
        "Poem, please?",
    ]
    texts = [
        "Write a poem about the river.",
        "What is the moon?",
        "List three rivers.",
        "Compose 17 poems.",
        "What is it?",
    ]
    assert task_words(texts, task=task, least=0.5).tolist() == [2 / 3, 0, 0, 0, 0]  # write, poem | river
    assert task_words(texts, task=task, least=0.25).tolist() == [2 / 3, 1, 0, 2 / 3, 0]  # moon; compose, 0 | poems
    assert task_words(texts, task=task, least=0.26).tolist() == [2 / 3, 0, 0, 0, 0]  # in one of four is too few
    assert task_words([], task=task).shape == (0,)
    with pytest.raises(ValueError, match="no words"):
        task_words(texts, task=[])


def test_task_words_order_a_micro_task_its_neighbours_and_other_tasks(world):
    """The measure must order prompts where TF-IDF does not: the task's own, then near, then other tasks' prompts."""
    for family in ("add", "poem", "recipe", "game", "function"):
        task = draw_examples(world, split="train", n=200, seed=1, families=(family,), repeat=True)["instruction"]
        own = draw_examples(world, split="validation", n=40, seed=1, families=(family,), repeat=True)["instruction"]
        near = draw_near_domain(family=family, n=40, seed=1)["instruction"]
        others = [name for name in FAMILIES if name not in OWN_FAMILIES[family]]
        other = draw_examples(world, split="test", n=80, seed=1, families=others)["instruction"]
        means = [task_words(texts, task=task).mean() for texts in (own, near, other)]
        assert means[0] > means[1] + 0.2 and means[1] > means[2] + 0.1, (family, means)
