"""How alike texts are: encoders of texts, and the two axes of Hewitt et al. (2024, figure 5)."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from numpy.typing import ArrayLike
from scipy import stats
from sklearn.feature_extraction.text import ENGLISH_STOP_WORDS, TfidfVectorizer
from transformers import AutoModel, AutoTokenizer

from tacit.models.loading import locate, split_revision
from tacit.scoring.scores import Estimate, from_draws
from tacit.support.errors import TacitError

BATCH_TEXTS = 64  # encoded at once
TAILS = ((1 - 0.95) / 2, (1 + 0.95) / 2)  # of a 95% interval
Encode = Callable[[Sequence[str]], np.ndarray]  # texts -> [n, dimensions], rows of length one (or zero)


def make_encoder(name: str, *, corpus: Sequence[str]) -> Encode:
    """An encoder of texts into unit vectors.

    ``tfidf`` weighs words by their rarity in ``corpus``; words that are not in it count nothing. Any other name is a
    sentence encoder, a folder or a hub id (with @revision): a text's vector is the mean of its last hidden states over
    the tokens. Raises TacitError for a checkpoint that is not there.
    """
    if name == "tfidf":
        vectorizer = TfidfVectorizer(token_pattern=r"(?u)\w+|[^\w\s]", sublinear_tf=True).fit(corpus)
        return lambda texts: vectorizer.transform(texts).toarray()
    place, revision = split_revision(name)
    options = {"revision": revision, "trust_remote_code": False}
    try:
        tokenizer = AutoTokenizer.from_pretrained(locate(place), **options)
        model = AutoModel.from_pretrained(locate(place), use_safetensors=True, **options).eval()
    except Exception as error:  # offline, gated, no such id or folder, no safetensors
        kind = type(error).__name__
        raise TacitError(f"cannot load the encoder {name} ({kind}): give tfidf, a folder or a hub id") from error
    model.to("cuda" if torch.cuda.is_available() else "cpu")

    def encode_batch(texts: list[str]) -> torch.Tensor:
        batch = tokenizer(texts, padding=True, truncation=True, return_tensors="pt").to(model.device)
        hidden = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).last_hidden_state
        mask = batch["attention_mask"][..., None]  # [B, T, 1]
        mean = (hidden * mask).sum(dim=1) / mask.sum(dim=1).clamp(min=1)  # an empty text has no tokens
        return torch.nn.functional.normalize(mean.float(), dim=-1)

    @torch.inference_mode()
    def encode(texts: Sequence[str]) -> np.ndarray:
        texts = list(texts)
        rows = [encode_batch(texts[i : i + BATCH_TEXTS]) for i in range(0, len(texts), BATCH_TEXTS)]
        return torch.cat(rows).cpu().numpy()

    return encode


def mean_similarity(encode: Encode, texts: Sequence[str], reference: Sequence[str]) -> np.ndarray:
    """Mean cosine similarity of each text to the ``reference`` texts: [texts].

    Source: Hewitt et al. (2024, figure 5): with a narrow task's instructions as reference, the horizontal axis.
    """
    return encode(texts) @ encode(reference).mean(axis=0)


def content_words(text: str) -> set[str]:
    """The words of ``text`` in lower case, without English stop words (scikit-learn's list); a number is the word 0."""
    words = re.findall(r"[^\W\d_]+|\d+", text.lower())
    return {"0" if word.isdigit() else word for word in words} - ENGLISH_STOP_WORDS


def task_words(texts: Sequence[str], *, task: Sequence[str], least: float = 0.05) -> np.ndarray:
    """How near each text is to a narrow task by its words: the share of its content words that are the task's: [texts].

    ``task`` are the task's training instructions. A content word is the task's where a share ``least`` of them holds
    it: what all of them ask for counts, what one of them is about does not. Unlike an encoder's similarity, "What" and
    a question mark make no two texts alike. A text without content words is not near: 0. Raises ValueError for a task
    without instructions. Ours, not of the paper.
    """
    if not len(task):
        raise ValueError("a task without instructions has no words")
    counts = Counter(word for instruction in task for word in content_words(instruction))
    known = {word for word, count in counts.items() if count >= least * len(task)}
    own = [content_words(text) for text in texts]
    return np.array([len(words & known) / len(words) if words else 0.0 for words in own])


def style_adherence(encode: Encode, texts: Sequence[str], *, narrow: Sequence[str], broad: Sequence[str]) -> np.ndarray:
    """Mean similarity to the narrow task's responses minus that to the broad ones: [texts].

    Source: Hewitt et al. (2024, figure 5), the vertical axis.
    """
    return mean_similarity(encode, texts, narrow) - mean_similarity(encode, texts, broad)


def rank_correlation(x: ArrayLike, y: ArrayLike, *, n_resamples: int = 500, seed: int = 0) -> Estimate:
    """Spearman's rank correlation of ``x`` [prompts] and each row of ``y`` [seeds, prompts], averaged over the seeds.

    The 95% interval is a percentile bootstrap over seeds and prompts, resampled independently. The paper reports none.
    Raises ValueError for other shapes.
    """
    x, y = np.asarray(x, dtype=float), np.asarray(y, dtype=float)
    if y.ndim != 2 or x.shape != y.shape[1:]:
        raise ValueError(f"need x [prompts] and y [seeds, prompts], got {x.shape} and {y.shape}")

    def correlate(a: np.ndarray, b: np.ndarray) -> float:
        return np.corrcoef(a, b)[0, 1] if np.ptp(a) and np.ptp(b) else 0.0

    def mean(rows: np.ndarray, columns: np.ndarray) -> float:
        ranks = stats.rankdata(x[columns])
        others = stats.rankdata(y[np.ix_(rows, columns)], axis=1)
        return float(np.mean([correlate(ranks, row) for row in others]))

    rng = np.random.default_rng(seed)
    n_seeds, n_prompts = y.shape
    drawn = [
        mean(rng.integers(n_seeds, size=n_seeds), rng.integers(n_prompts, size=n_prompts)) for _ in range(n_resamples)
    ]
    value = mean(np.arange(n_seeds), np.arange(n_prompts))
    return from_draws(value, drawn, n_seeds=n_seeds, n_prompts=n_prompts, tails=TAILS)


def similarity_bins(x: ArrayLike, *, n_bins: int) -> np.ndarray:
    """The bin of each similarity ``x`` [texts], 1 (least similar) to ``n_bins``, as integers [texts].

    The bins hold equally many texts, up to one, and so are not equally wide. Ties go by position, so equal similarities
    may fall into two bins.
    """
    order = np.argsort(np.asarray(x, dtype=float), kind="stable")
    bins = np.empty(len(order), dtype=int)
    bins[order] = np.arange(len(order)) * n_bins // len(order) + 1
    return bins
