"""Tiny models and a tiny tokenizer, made here: no download, no weights of the repository."""

import contextlib
import itertools
import os

import nbformat
import papermill
import pytest
import torch
from tacit.microworld.documents import write_documents
from tacit.microworld.tokenizer import train_tokenizer
from tacit.microworld.world import World
from tacit.running import execution
from transformers import AutoModelForCausalLM, Gemma3TextConfig, GPT2Config, LlamaConfig, Olmo2Config, Qwen3Config

VOCABULARY = 97
SIZE = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
CONFIGS = {
    "llama": LlamaConfig(**SIZE),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY,
        n_embd=32,
        n_layer=2,
        n_head=4,
        n_positions=128,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=0,
    ),
    "qwen3": Qwen3Config(**SIZE, head_dim=8),
    "olmo2": Olmo2Config(**SIZE),
    "gemma3": Gemma3TextConfig(
        **SIZE, head_dim=8, sliding_window=8, layer_types=["sliding_attention", "full_attention"]
    ),
}


def make_model(config, *, seed):
    """A model with weights large enough that its greedy choices vary."""
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(std=0.3)
    return model


@pytest.fixture(scope="session")
def world():
    return World.draw(seed=1).holding("base")


@pytest.fixture(scope="session")
def tokenizer(world):
    return train_tokenizer((t for _, t in itertools.islice(write_documents(world, seed=1), 1_500)), vocabulary_size=700)


def llama_config(tokenizer, *, positions=256):
    """A tiny Llama over ``tokenizer``'s vocabulary and special tokens, for rows of at most ``positions`` tokens."""
    ids = {k: getattr(tokenizer, k) for k in ("bos_token_id", "eos_token_id", "pad_token_id")}
    return LlamaConfig(**(SIZE | {"vocab_size": len(tokenizer), "max_position_embeddings": positions} | ids))


@pytest.fixture
def tiny(tokenizer):
    """A fresh random model over the tiny tokenizer's vocabulary."""
    return make_model(llama_config(tokenizer), seed=0)


@pytest.fixture(scope="session")
def session_cache(tmp_path_factory):
    """A folder for the cache, empty when the session begins; the processes of pytest-xdist share it.

    Notebooks that tune the same model on the same examples make it once. The cache's own locks keep two apart.
    """
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if os.environ.get("PYTEST_XDIST_WORKER") else folder
    return folder / "shared cache"


@pytest.fixture
def shared_cache(session_cache, monkeypatch):
    """What this test computes is kept for the session, and what another test computed is found."""
    monkeypatch.setenv("TACIT_CACHE", str(session_cache))
    return session_cache


@pytest.fixture
def without_kernel(monkeypatch):
    """Notebooks run in this process: a kernel spends ten seconds on imports. The runner's other steps are real."""

    def execute(source, executed, parameters):
        notebook = papermill.iorw.load_notebook_node(str(source))
        notebook = papermill.parameterize.parameterize_notebook(notebook, parameters)
        names = {"display": lambda *shown: None}
        with contextlib.chdir(source.parent):
            for cell in notebook.cells:
                if cell.cell_type == "code":
                    exec(compile(cell.source, source.name, "exec"), names)
        nbformat.write(notebook, executed)

    monkeypatch.setattr(execution, "_execute", execute)


@pytest.fixture(scope="session")
def pair(tokenizer, tmp_path_factory):
    """The folders of two tiny models, an expert and an amateur; a twelfth of the vocabulary ends a response."""
    folders = {}
    for seed, role in enumerate(("expert", "amateur")):
        model = make_model(llama_config(tokenizer), seed=seed)
        model.generation_config.eos_token_id = [tokenizer.eos_token_id, *range(100, len(tokenizer), 12)]
        folders[role] = str(tmp_path_factory.mktemp(role))
        model.save_pretrained(folders[role])
        tokenizer.save_pretrained(folders[role])
    return folders
