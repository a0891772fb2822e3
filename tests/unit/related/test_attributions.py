"""Finding 17: gradients against finite differences, the paper's densities by hand, exact ablation, subspaces."""

import numpy as np
import pytest
import torch
from conftest import CONFIGS, make_model
from scipy.stats import spearmanr
from tacit.data.instructions import encode_example
from tacit.microworld.tasks import Task
from tacit.models.chat import encode_prompt
from tacit.related import attributions
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand

PROMPT, RESPONSE = [1, 5, 9, 13, 20], [30, 31, 2]


def test_attributions_are_slopes_along_the_embedding():
    model = make_model(CONFIGS["llama"], seed=0).double()
    scores = attributions.attribute(model, PROMPT, RESPONSE)
    table = model.get_input_embeddings().weight
    x = table[torch.tensor([*PROMPT, *RESPONSE])].detach()

    def p(scaled, n, m):  # the probability of response token m with x_n stretched
        moved = x.clone()
        moved[n] *= scaled
        with torch.no_grad():
            logits = model(inputs_embeds=moved[None]).logits[0]
        return float(logits[len(PROMPT) - 1 + m].softmax(-1)[RESPONSE[m]])

    for n in range(len(PROMPT)):
        for m in range(len(RESPONSE)):
            slope = (p(1 + 1e-2, n, m) - p(1 - 1e-2, n, m)) / 2e-2  # its norms round to float32
            assert float(scores[n, m]) == pytest.approx(slope, rel=0.02, abs=3e-6)
    assert scores.abs().max() > 1e-4  # well above that


def test_densities_by_hand():
    scores = torch.tensor([[4.0, 1.0, -9.0], [3.0, 1.0, 2.0], [2.0, 0.5, 0.1]])
    # columns over their largest: 1, .75, .5 | 1, 1, .5 | 0, 1, .05; levels: 10, 8, 5 | 10, 10, 5 | 0, 10, 1
    # kept: row 0 (10, 10, 0), row 1 (8, 10, 10), row 2 nothing
    first = 20 / (2 * 10.0**4) ** 0.25
    second = 28 / (8.0**4 + 2 * 10.0**4) ** 0.25
    expected = [first / second, 1.0, 0.0]
    assert attributions.densities(scores).tolist() == pytest.approx(expected)
    assert attributions.densities(-scores.abs()).tolist() == [0, 0, 0]
    assert attributions.span_score(expected, [0, 1]) == pytest.approx((first / second + 1) / 2)


def test_words_of_the_instruction_and_of_the_input_are_told_apart(tokenizer):
    task = Task("food", {"subject": "molka"}, 0)  # What does the {subject} eat?
    places = attributions.find_words(tokenizer, task)
    prompt = encode_prompt(tokenizer, task.instruction)

    def words(name):
        return tokenizer.decode([prompt[i] for i in places[name]])

    assert words("input").strip() == "molka"
    assert words("instruction").replace(" ", "") == "Whatdoestheeat?"
    assert sorted(i for of in places.values() for i in of) == list(range(len(prompt)))
    assert "<|user|>" in words("tags") and "<|assistant|>" in words("tags")
    both = sorted([*places["instruction"], *places["input"]])
    assert tokenizer.decode([prompt[i] for i in both]) == task.instruction


def test_what_a_response_loses_without_a_token_is_that_of_a_loop(tiny, tokenizer):
    encoded = encode_example(tokenizer, "What does the molka eat?", "Moss.")
    prompt = [token for token, label in zip(encoded["input_ids"], encoded["labels"], strict=True) if label < 0]
    response = encoded["input_ids"][len(prompt) :]

    def log_p(some):
        with torch.no_grad():
            logits = tiny(input_ids=torch.tensor([[*some, *response]])).logits[0].log_softmax(-1)
        return sum(float(logits[len(some) - 1 + m, token]) for m, token in enumerate(response))

    places = [2, 4, 5]
    expected = [log_p(prompt) - log_p([*prompt[:i], *prompt[i + 1 :]]) for i in places]
    lost = attributions.without_each(tiny, tokenizer, prompt, response, places)
    assert lost == pytest.approx(expected, abs=1e-4)


def test_a_measure_has_a_number_for_each_task(tiny, tokenizer):
    tasks = [Task("food", {"subject": "molka"}, 0), Task("home", {"subject": "molka"}, 1)]
    responses = [encode_example(tokenizer, "", text)["input_ids"][-4:] for text in ("It eats moss.", "In the cave.")]
    measured = attributions.measure(tiny, tokenizer, tasks, responses)
    for k, (task, response) in enumerate(zip(tasks, responses, strict=True)):
        prompt, places = encode_prompt(tokenizer, task.instruction), attributions.find_words(tokenizer, task)
        pushes = attributions.attribute(tiny, prompt, response)
        density = attributions.densities(pushes).tolist()
        for name in ("instruction", "input", "tags"):
            total = sum(density[i] for i in places[name]) / np.log2(2 + len(places[name]))
            assert measured[name][k] == pytest.approx(total)
        both = sorted([*places["instruction"], *places["input"]])
        among = attributions.densities(pushes[both]).tolist()
        alone = [value for value, i in zip(among, both, strict=True) if i in places["instruction"]]
        assert measured["instruction, words"][k] == pytest.approx(sum(alone) / np.log2(2 + len(alone)))
        lost = attributions.without_each(tiny, tokenizer, prompt, response, both)
        expected = spearmanr(lost, [density[i] for i in both]).statistic
        assert measured["agreement"][k] == pytest.approx(expected, nan_ok=True)
    assert "agreement" not in attributions.measure(tiny, tokenizer, tasks, responses, ablate=False)


def test_an_instruction_is_swapped_for_another_about_the_same_subject(world):
    several = [a for a in world.animals if sum((a, kind) in world.held for kind in attributions.ANIMAL_ATTRIBUTES) > 1]
    held = [animal for animal in several if (animal, "home") in world.held][:10]
    assert len(held) == 10
    for subject in held:
        task = Task("home", {"subject": subject}, 4)
        other = attributions.swap_instruction(world, task)
        assert other.family != "home" and other.item == task.item and (subject, other.family) in world.held
        assert subject in other.instruction
    with pytest.raises(ValueError, match="rhyme asks for no fact"):
        attributions.swap_instruction(world, Task("rhyme", {"word": "moon"}, 0))


def test_documents_are_new_and_follow_their_seed(world):
    documents = attributions.draw_documents(world, n=20, seed=1)
    assert len(documents) == 20 and set(documents["instruction"]) == {""}
    assert documents["response"] != attributions.draw_documents(world, n=20, seed=2)["response"]


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_feed_forward_weights_have_the_width_first(name):
    model = make_model(CONFIGS[name], seed=0)
    weights = attributions.down_projections(model)
    assert len(weights) == 2 and all(weight.shape[0] == 32 for weight in weights)


def test_subspaces_agree_by_their_principal_angles():
    torch.manual_seed(0)
    a = torch.randn(16, 40)
    assert attributions.subspace_overlap(a, a, k=4) == pytest.approx(1, abs=1e-5)
    left = torch.linalg.svd(a - a.mean(dim=1, keepdim=True)).U
    b = torch.randn(16, 40)
    right = torch.linalg.svd(b - b.mean(dim=1, keepdim=True)).U
    cosines = torch.linalg.svdvals(left[:, :4].T @ right[:, :4])
    assert attributions.subspace_overlap(a, b, k=4) == pytest.approx(float((cosines**2).mean()), abs=1e-5)
    rest = left[:, 4:8] @ torch.diag(torch.tensor([9.0, 8, 7, 6])) @ torch.randn(4, 40)
    assert attributions.subspace_overlap(a, rest, k=4) < 0.2


@pytest.mark.parametrize(
    ("gap", "control", "begins"),
    [
        (0.3, 0.9, "Instruction tuning raises the gradient score"),
        (-0.3, 0.9, "It is not so that instruction tuning"),
        (0.0, 0.9, "Whether instruction tuning"),
        (0.3, 0.1, "Nothing is said of the models by this score"),
    ],
)
def test_the_answer_follows_the_verdict(gap, control, begins):
    def around(value):
        return Estimate(value, value - 0.05, value + 0.05, 3, 60)

    rule = [Demand(f"tuned minus {other}", "instruction", around(gap)) for other in ("base", "continued")]
    for exact, side in ((1.0, "does depend more"), (-1.0, "depends less"), (0.0, "no change is shown")):
        answer = attributions.describe_shift(
            rule,
            [Demand("tuned", "agreement", around(control), 0.5)],
            own=[Demand("tuned minus base", "own", around(0.5))],
            response_tuned=Demand("tuned minus response-tuned", "instruction", around(0.1)),
            exact=around(exact),
        )
        assert answer["found"].startswith(begins)
        assert "tuned minus base 0.50 [0.45, 0.55]" in answer["reason"] and side in answer["reason"]
        assert ("So the difference is one of texts" in answer["reason"]) == (gap <= 0 and control > 0.5)
