"""Finding 7: arms, one position read by hand, shares of a gain, further teachers, and the answer by verdict."""

import numpy as np
import pandas as pd
import pytest
import torch
from conftest import llama_config, make_model
from tacit.findings import teaching
from tacit.microworld.examples import draw_examples
from tacit.models.chat import render_prompt
from tacit.scoring.estimates import Estimate
from tacit.scoring.verdicts import Demand
from tacit.synthesis.settings import Settings


def test_arms_differ_from_direct_sampling_in_what_they_are_named_for():
    recipes = teaching.list_recipes(0.1, 0.5, temperature=0.25, top_p=0.75)
    direct = recipes.pop("direct")
    assert direct == {"alpha": 0.0, "beta": 0.0, "temperature": 1.0}
    changed = {arm: {k: v for k, v in recipe.items() if direct.get(k) != v} for arm, recipe in recipes.items()}
    assert changed == {
        "direct, cold": {"temperature": 0.25},
        "direct, nucleus": {"top_p": 0.75},
        "greedy": {"temperature": 0.0},
        "mask only": {"alpha": 0.1},
        "CoDIT": {"alpha": 0.1, "beta": 0.5},
        "CoDIT, end exempt": {"alpha": 0.1, "beta": 0.5, "contrast_end": False},
        "CoDIT, paper's cell": {"alpha": 0.01, "beta": 1.0},
    }
    assert set(teaching.COLD) <= set(recipes)
    assert "CoDIT, paper's cell" not in teaching.list_recipes(0.01, 1.0, temperature=0.5, top_p=0.9)
    for recipe in (direct, *recipes.values()):
        Settings(**recipe)  # all of them are options of the engine


def test_the_cell_is_the_best_with_a_contrast_and_the_first_of_equals():
    cells = [(0.01, 0.0, 0.9), (0.01, 0.5, 0.25), (0.1, 0.5, 0.5), (0.1, 1.0, 0.5)]
    assert teaching.choose_cell(pd.DataFrame(cells, columns=["alpha", "beta", "student"])) == (0.1, 0.5)
    with pytest.raises(ValueError, match="no cell has a contrast"):
        teaching.choose_cell(pd.DataFrame(cells[:1], columns=["alpha", "beta", "student"]))


@pytest.fixture(scope="module")
def pair(tokenizer):
    return [make_model(llama_config(tokenizer), seed=seed) for seed in (0, 1)]


def test_positions_are_those_of_a_forward_pass_by_hand(pair, tokenizer):
    example = {"instruction": "Where does it live?", "response": "It lives in the jungle."}
    beta = 0.75
    seen, both = teaching.read_positions(*pair, tokenizer, example, alpha=0.0, beta=beta)
    assert (seen["plausible"] == len(tokenizer)).all()
    most = both[0].softmax(-1).amax(-1).numpy()
    alpha = 1.1 * float((seen["post"] / most).median())  # so that some right tokens are masked and some are not
    table, logits = teaching.read_positions(*pair, tokenizer, example, alpha=alpha, beta=beta)
    prompt = tokenizer(render_prompt(tokenizer, example["instruction"]), add_special_tokens=False)["input_ids"]
    right = tokenizer(example["response"], add_special_tokens=False)["input_ids"] + [tokenizer.eos_token_id]
    assert table["token"].tolist() == right
    assert table["position"].tolist() == list(range(len(right)))
    assert logits.shape == (2, len(right), len(logits[0, 0]))
    masked = 0
    for t, token in enumerate(right):
        ids = torch.tensor([prompt + right[:t]])
        with torch.inference_mode():
            p, base = (model(input_ids=ids).logits[0, -1].double().softmax(-1) for model in pair)
        weight = {v: (p[v] / base[v] ** beta).item() for v in range(len(p)) if p[v] >= alpha * p.max()}
        row = table.iloc[t]
        q = weight.get(token, 0.0) / sum(weight.values())
        assert (row["post"], row["pre"], row["q"]) == pytest.approx((p[token].item(), base[token].item(), q), abs=1e-5)
        assert row["lift"] == pytest.approx(q - p[token].item(), abs=1e-5)
        assert row["plausible"] == len(weight)
        masked += token not in weight
    assert 0 < masked < len(right)  # the case shows both


def test_choices_show_the_likeliest_tokens_the_mask_and_the_right_one(tokenizer):
    tokens = [tokenizer.encode(text, add_special_tokens=False)[0] for text in ("a", "b", "c", "d")]
    logits = torch.full((2, len(tokenizer)), -30.0)
    logits[0, tokens] = torch.tensor([0.5, 0.3, 0.15, 0.05]).log()
    logits[1, tokens] = torch.tensor([0.8, 0.1, 0.05, 0.05]).log()
    look = {"alpha": 0.2, "betas": [0.0, 1.0], "n": 2}
    table = teaching.tabulate_choices(logits, tokens[3], tokenizer, **look)
    assert [eval(name) for name in table.index] == [tokenizer.decode([tokens[i]]) for i in (0, 1, 3)]
    assert table["right"].tolist() == ["", "", "<- right"]
    assert table["p post"].tolist() == ["0.5", "0.3", "0.05"]
    assert table["p pre"].tolist() == ["0.8", "0.1", "0.05"]
    kept = np.array([0.5, 0.3, 0.15])  # 0.05 is below a fifth of 0.5
    ratio = kept / np.array([0.8, 0.1, 0.05])
    for name, q in (("q, beta 0", kept / kept.sum()), ("q, beta 1", ratio / ratio.sum())):
        assert table[name].tolist() == [f"{q[0]:.2g}", f"{q[1]:.2g}", "masked"]
    assert len(teaching.tabulate_choices(logits, tokens[0], tokenizer, **look)) == 2


def test_a_share_of_the_gain_is_a_ratio_of_mean_differences_with_its_bootstrap_interval():
    rng = np.random.default_rng(1)
    direct, ours, right = (rng.binomial(1, p, size=(3, 60)).astype(float) for p in (0.3, 0.5, 0.8))
    share = teaching.share_of_gain(ours, direct, right)
    assert share.value == pytest.approx((ours.mean() - direct.mean()) / (right.mean() - direct.mean()))
    assert (share.n_seeds, share.n_prompts) == (3, 60)
    drawn = []
    for _ in range(4000):
        some = np.ix_(rng.integers(3, size=3), rng.integers(60, size=60))
        a, b, c = (side[some].mean() for side in (ours, direct, right))
        drawn.append((a - b) / (c - b))
    assert (share.low, share.high) == pytest.approx(np.quantile(drawn, (0.025, 0.975)), abs=0.04)
    assert teaching.share_of_gain(direct, direct, right).value == 0
    whole = teaching.share_of_gain(right, direct, right)
    assert (whole.low, whole.high) == pytest.approx((1, 1))
    assert teaching.share_of_gain(ours, direct, direct) is None
    with pytest.raises(ValueError, match="three arms"):
        teaching.share_of_gain(ours[:2], direct, right)


def test_a_further_teacher_has_the_recipe_of_the_committed_one_and_its_own_size(tmp_path, monkeypatch):
    monkeypatch.setenv("TACIT_CACHE", str(tmp_path))
    given = []

    def post_train(*, base, out, **settings):
        given.append(settings)
        out.mkdir()
        (out / "weights").write_text(str(settings["sizes"]))

    monkeypatch.setattr(teaching, "post_train", post_train)
    folder = teaching.train_teacher(70)
    assert (teaching.Path(folder) / "weights").read_text() == "[70]"
    assert teaching.train_teacher(70) == folder  # from the cache
    assert teaching.train_teacher(80) != folder
    assert [one["sizes"] for one in given] == [[70], [80]]
    recipe = teaching.teacher_recipe()
    same = set(recipe) - {"sizes", "least", "most", "base", "out"}
    assert {name: given[0][name] for name in same} == {name: recipe[name] for name in same}
    assert (given[0]["least"], given[0]["most"]) == (0.0, 1.0)


def demand(value, *, half=0.05, arm="a", metric="lenient", threshold=0.0):
    return Demand(arm, metric, Estimate(value, value - half, value + half, 3, 100), threshold)


def answer(*, gains=(0.2, 0.1), right=(0.4, 0.3), **more):
    empty = {"shares": {}, "beyond": [], "cold": {}, "parts": {}, "dial": {}, "room": {}}
    rule, controls = ([demand(value) for value in values] for values in (gains, right))
    return teaching.describe_codit(rule, controls, **empty | more)


@pytest.mark.parametrize(
    ("numbers", "begins"),
    [
        ({}, "Text decoded from the contrast teaches more than text sampled from the teacher: "),
        ({"gains": (0.2, -0.2)}, "Text decoded from the contrast does not teach more"),
        ({"gains": (0.2, 0.02)}, "Whether text decoded from the contrast teaches more than text sampled"),
        ({"right": (0.4, 0.0)}, "Nothing is said of the contrast, because right responses themselves are not shown"),
    ],
)
def test_the_answer_by_verdict(numbers, begins):
    found = answer(**numbers)["found"]
    assert found.startswith(begins)
    if "right" not in numbers:
        assert "the lenient score of a student" in found
        assert all(f"{value:.2f} [" in found for value in numbers.get("gains", (0.2, 0.1)))
        assert found.endswith("for the two students.")
    assert answer(gains=(0.2,), right=(0.4,))["found"].endswith("is 0.20 [0.15, 0.25].")


def test_the_answer_says_how_far_the_arms_come_and_what_the_contrast_adds():
    told = answer(
        shares={
            "CoDIT": Estimate(0.4, 0.3, 0.5, 3, 9),
            "direct, cold": Estimate(0.5, 0.4, 0.6, 3, 9),
            "greedy": Estimate(0.6, 0.5, 0.7, 3, 9),
        },
        beyond=[demand(0.1, arm="big: CoDIT"), demand(0.01, arm="small: CoDIT")],
        cold={"greedy": demand(-0.1), "direct, cold": demand(0.01), "direct, nucleus": demand(0.2)},
        parts={(arm, "knowledge"): Estimate(-0.1, -0.2, 0.0, 3, 9) for arm in ("direct", "greedy", "direct, cold")},
        dial={"weak": demand(0.3), "strong": demand(-0.2), "same": demand(0.0)},
        room={who: Estimate(0.4, 0.3, 0.5, 3, 9) for who in ("weak", "strong", "same")},
    )
    reason, caveat = told["reason"], told["caveat"]
    assert "bring: CoDIT 0.40 [0.30, 0.50]; greedy 0.60 [0.50, 0.70]." in reason
    assert (
        "CoDIT minus its mask alone: big 0.10 [0.05, 0.15], the contrast adds; small 0.01 [-0.04, 0.06], no" in reason
    )
    assert "CoDIT teaches more than direct, nucleus (0.20 [0.15, 0.25])" in reason
    assert "CoDIT teaches less than greedy (-0.10 [-0.15, -0.05])" in reason
    assert "no difference is shown to direct, cold (0.01" in reason
    told = "knowledge -0.10 [-0.20, 0.00]"
    assert caveat.startswith(f"By score, CoDIT minus direct: {told}; CoDIT minus greedy: {told}.")
    assert "weak 0.30 [0.25, 0.35], it pays (right responses gain 0.40); strong -0.20 [-0.25, -0.15], it" in caveat
    assert "same 0.00 [-0.05, 0.05], not decided (right" in caveat
    bare = answer()
    assert (
        bare["reason"] == "Right responses are not shown to gain over direct text, so there is no share of their gain."
    )
    judged = teaching.describe_codit(
        [demand(0.6, metric="win rate", threshold=0.5)], [], shares={}, beyond=[], cold={}, parts={}, dial={}, room={}
    )
    assert "the win rate of a student of CoDIT text against the same student of direct text is 0.60" in judged["found"]
    assert judged["reason"] == "Without verifiers it is not measured how far right responses would come."
    assert bare["caveat"] == "One micro world, and one base for every teacher."


def test_examples_to_read_are_about_facts_and_their_tokens_are_named(world, tokenizer, tmp_path):
    rows = draw_examples(world, split="train", n=30, seed=0, families=("home", "list"), constrained=1.0)
    picked = teaching.pick_examples(rows, most=4)
    assert [row["family"] for row in picked] == ["home"] * 4
    none = rows.filter(lambda row: row["family"] == "list")
    assert [row["family"] for row in teaching.pick_examples(none, most=3)] == ["list"] * 3
    (tmp_path / "world.json").write_text(world.to_json())
    n = len(tokenizer(picked[0]["response"], add_special_tokens=False)["input_ids"]) + 1
    named = teaching.name_tokens(str(tmp_path / "world.json"), tokenizer, picked[0], n=n)
    assert len(named) == n and named[-1] == "end" and "fact" in named
    assert teaching.name_tokens("", tokenizer, picked[0], n=3) == ["other"] * 3
    assert teaching.name_tokens(str(tmp_path / "world.json"), tokenizer, none[0], n=2) == ["other"] * 2
