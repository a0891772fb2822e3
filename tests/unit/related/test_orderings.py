"""Finding 19: sums over orders against their enumeration, samplers against exact laws, Bethe against its definition."""

import itertools
import math

import pytest
import torch
from scipy.optimize import minimize
from tacit.related import orderings
from tacit.related.orderings import Decoder


def make_scores(n=3, batch=2):
    torch.manual_seed(0)
    model = Decoder(4, n, width=16, layers=1, heads=2)
    inputs, answers = torch.randint(10, (batch, 4)), torch.randint(10, (batch, n))
    with torch.no_grad():
        return model, inputs, answers, *orderings.score_states(model, inputs, answers)


def by_hand(model, inputs, answers, order, *, learned=True):
    """log p(answer, order) by filling one place after another."""
    filled, total = torch.full_like(answers, 10), 0.0
    for k, place in enumerate(order):
        with torch.no_grad():
            symbols, places = model(inputs, filled)
        empty = [i for i in range(len(order)) if i not in order[:k]]
        total += float(places[0, empty].log_softmax(0)[empty.index(place)]) if learned else -math.log(len(empty))
        total += float(symbols[0, place].log_softmax(0)[answers[0, place]])
        filled[0, place] = answers[0, place]
    return total


def test_tasks_by_hand_and_their_splits_are_apart():
    inputs, answers = orderings.draw_task("sum", n_places=4, n=50, seed=0)
    for x, y in zip(inputs.tolist(), answers.tolist(), strict=True):
        a, b, total = (int("".join(map(str, digits))) for digits in (x[:3], x[3:], y))
        assert a + b == total
    larger, best = orderings.draw_task("larger digits", n_places=4, n=50, seed=0)
    assert larger.shape == (50, 8) and (best == torch.maximum(larger[:, :4], larger[:, 4:])).all()
    tests, _ = orderings.draw_task("sum", n_places=4, n=200, seed=0, test=True)
    train, _ = orderings.draw_task("sum", n_places=4, n=2_000, seed=0)
    assert not set(map(tuple, tests.tolist())) & set(map(tuple, train.tolist()))
    with pytest.raises(ValueError, match="unknown task 'product'"):
        orderings.draw_task("product", n_places=3, n=1, seed=0)


@pytest.mark.parametrize("learned", [True, False])
def test_every_order_and_their_sum_are_those_of_a_loop(learned):
    model, inputs, answers, *_ = make_scores()
    with torch.no_grad():
        places, symbols = orderings.score_states(model, inputs, answers, learned=learned)
    orders = list(itertools.permutations(range(3)))
    for b in range(2):
        expected = [by_hand(model, inputs[b : b + 1], answers[b : b + 1], order, learned=learned) for order in orders]
        scored = orderings.score_order((places + symbols)[b : b + 1].expand(6, -1, -1), torch.tensor(orders))
        assert scored.tolist() == pytest.approx(expected, abs=1e-4)
        total = math.log(sum(map(math.exp, expected)))
        assert float(orderings.sum_over_orders(places, symbols)[b, 0]) == pytest.approx(total, abs=1e-4)


def test_orders_are_sampled_from_the_posterior():
    _, _, _, places, symbols = make_scores(batch=1)
    n, orders = 20_000, orderings.list_orders(3)
    generator = torch.Generator().manual_seed(1)
    drawn = orderings.sample_posterior(places.expand(n, -1, -1), symbols.expand(n, -1, -1), generator)
    joint = orderings.score_order((places + symbols).expand(6, -1, -1), orders)
    expected = joint.softmax(0)
    shares = torch.stack([(drawn == order).all(1).float().mean() for order in orders])
    assert (shares - expected).abs().max() < 0.015


def test_the_matching_law_is_enumerated_and_its_sampler_is_another_law():
    torch.manual_seed(2)
    x = torch.randn(3, 3) * 2
    law = orderings.matching_law(x)
    weights = [math.exp(sum(float(x[t, z]) for t, z in enumerate(order))) for order in itertools.permutations(range(3))]
    assert law.exp().tolist() == pytest.approx([w / sum(weights) for w in weights], abs=1e-5)
    drawn = orderings.sample_matchings(x, n=4_000, generator=torch.Generator().manual_seed(0))
    assert sorted(set(map(tuple, drawn.tolist()))) <= sorted(itertools.permutations(range(3)))
    sharp = orderings.sample_matchings(100 * torch.eye(3), n=50, generator=torch.Generator().manual_seed(0))
    assert (sharp == torch.arange(3)).all()


def test_bethe_is_the_minimum_of_its_free_energy_and_within_its_bounds():
    torch.manual_seed(3)
    x = torch.randn(3, 3)
    marginals, log_permanent = orderings.bethe_marginals(x)
    assert marginals.sum(0).tolist() == pytest.approx([1] * 3, abs=1e-4)
    assert marginals.sum(1).tolist() == pytest.approx([1] * 3, abs=1e-4)
    exact = torch.stack([x[torch.arange(3), order].sum() for order in orderings.list_orders(3)]).logsumexp(0)
    assert 0 <= float(exact - log_permanent) <= 1.5 * math.log(2)

    def energy(free):  # of a doubly stochastic matrix, from its upper left corner
        b = torch.zeros(3, 3, dtype=torch.double)
        b[:2, :2] = torch.tensor(free).view(2, 2)
        b[:2, 2], b[2, :2] = 1 - b[:2, :2].sum(1), 1 - b[:2, :2].sum(0)
        b[2, 2] = 1 - b[2, :2].sum()
        if (b <= 0).any() or (b >= 1).any():
            return 1e6
        return float((b * (b.log() - x.double())).sum() - ((1 - b) * (1 - b).log()).sum())

    best = minimize(energy, [1 / 3] * 4, method="Nelder-Mead", options={"xatol": 1e-6, "fatol": 1e-9, "maxiter": 4000})
    assert float(log_permanent) == pytest.approx(-best.fun, abs=1e-3)


def test_sinkhorns_matrix_has_rows_and_columns_of_one_and_keeps_ratios():
    torch.manual_seed(4)
    x = torch.randn(4, 4)
    p = orderings.sinkhorn_marginals(x)
    assert p.sum(0).tolist() == pytest.approx([1] * 4, abs=1e-5) and p.sum(1).tolist() == pytest.approx(
        [1] * 4, abs=1e-5
    )
    cross = x[0, 0] + x[1, 1] - x[0, 1] - x[1, 0]
    assert float(p[0, 0].log() + p[1, 1].log() - p[0, 1].log() - p[1, 0].log()) == pytest.approx(float(cross), abs=1e-4)


@pytest.mark.parametrize("learned", [True, False])
def test_a_path_is_scored_as_in_the_table_of_states(learned):
    model, inputs, answers, places, symbols = make_scores(batch=4)
    orders = torch.tensor([[0, 1, 2], [2, 1, 0], [1, 0, 2], [2, 0, 1]])
    with torch.no_grad():
        paths = orderings.score_paths(model, inputs, answers, orders, learned=learned)
    expected = orderings.score_order(places + symbols if learned else symbols, orders)
    torch.testing.assert_close(paths, expected, rtol=1e-4, atol=1e-4)


def test_the_reinforce_loss_has_the_exact_gradient_of_the_bound_on_average():
    torch.manual_seed(5)
    orderer = orderings.Orderer(4, 3, width=16, layers=1, heads=2)
    inputs, answers = torch.randint(10, (1, 4)), torch.randint(10, (1, 3))
    rewards = torch.randn(6)  # log p(answer, order) of every order
    orders = orderings.list_orders(3)
    x = orderer(inputs, answers)[0]
    log_q = orderings.matching_law(x)
    bound = (log_q.exp() * (rewards - log_q)).sum()
    weight = orderer.steps.weight
    (exact,) = torch.autograd.grad(-bound, weight, retain_graph=True)
    q, k, n = log_q.exp().detach(), 4, 4_000
    drawn = torch.multinomial(q, n * k, replacement=True, generator=torch.Generator().manual_seed(0))
    loss = orderings._reinforce(orderer, inputs.expand(n, -1), answers.expand(n, -1), orders[drawn], rewards[drawn])
    (estimate,) = torch.autograd.grad(loss, weight)
    shrunk = exact * (k - 1) / k  # the mean over the samples holds the sample itself
    assert (estimate - shrunk).norm() < 0.15 * shrunk.norm()


def test_training_learns_and_evaluation_is_exact():
    with pytest.raises(ValueError, match="unknown strategy 'inside out'"):
        orderings.train_decoder("sum", "inside out", n_places=3, n_steps=1, seed=0)
    inputs, answers = orderings.draw_task("larger digits", n_places=2, n=40, seed=0, test=True)
    for strategy in orderings.STRATEGIES:
        fresh, _ = orderings.train_decoder("larger digits", strategy, n_places=2, n_steps=1, seed=0, learning_rate=1e-9)
        model, orderer = orderings.train_decoder("larger digits", strategy, n_places=2, n_steps=60, seed=0)
        before, _ = orderings.evaluate(fresh, strategy, inputs, answers)
        after, mass = orderings.evaluate(model, strategy, inputs, answers)
        assert after.mean() > before.mean() + 0.2
        assert (orderer is not None) == (strategy == "matching")
        assert ((mass >= 0) & (mass <= 1.0001)).all()
        if strategy == "left to right":
            paths = [by_hand(model, inputs[i : i + 1], answers[i : i + 1], [0, 1]) for i in range(3)]
            alone = [by_hand(model, inputs[i : i + 1], answers[i : i + 1], [0, 1], learned=False) for i in range(3)]
            assert after[:3].tolist() == pytest.approx([a + math.log(2) for a in alone], abs=1e-4) and paths
