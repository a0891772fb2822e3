"""Finding 19, orders of writing (Li et al. 2021, arXiv 2110.15797): which order is best, with every sum exact.

A small decoder fills the places of a short answer in any order. An answer of n places has 2^n states (which places are
filled) and n! orders. For small n every order can be summed over, so that the probability of an answer, the posterior
over orders and the normaliser of a distribution over orders are known, and estimators can be held against them.
"""

from __future__ import annotations

import itertools
import random

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor, nn

TASKS = ("sum", "larger digits")
STRATEGIES = ("left to right", "right to left", "random", "matching", "posterior")
LEARNED = ("matching", "posterior")  # the decoder learns which place comes next
SYMBOLS = 10  # digits; the next number stands for an empty place


def draw_task(task: str, *, n_places: int, n: int, seed: int, test: bool = False) -> tuple[Tensor, Tensor]:
    """Inputs [n, 2 d] and answers [n, n_places], digits: two numbers of d digits, the most significant first.

    ``sum``: d is one less than the places, and the answer is the sum with leading zeros: a carry goes from the last
    place to the first, so that the last place is the one to begin with. ``larger digits``: d is the number of places,
    and the answer has the larger digit at each: no order is better. Pairs of numbers that are tests never train.
    Raises ValueError for another task.
    """
    if task not in TASKS:
        raise ValueError(f"unknown task {task!r}: choose among {', '.join(TASKS)}")
    rng, digits, rows = random.Random(f"{task}-{n_places}-{seed}-{test}"), n_places - (task == "sum"), []
    while len(rows) < n:
        a, b = rng.randrange(10**digits), rng.randrange(10**digits)
        if ((a + 7 * b) % 5 == 0) == test:
            rows.append((a, b))
    one, two = (torch.tensor([[int(c) for c in str(pair[k]).zfill(digits)] for pair in rows]) for k in (0, 1))
    if task == "larger digits":
        return torch.cat([one, two], dim=1), torch.maximum(one, two)
    sums = torch.tensor([[int(c) for c in str(a + b).zfill(n_places)] for a, b in rows])
    return torch.cat([one, two], dim=1), sums


class Decoder(nn.Module):
    """Fills empty places: logits of symbols [B, n, 10] and of places [B, n], from inputs and what is filled so far."""

    def __init__(self, n_inputs: int, n_places: int, *, width: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        self.n_inputs = n_inputs
        self.symbols = nn.Embedding(SYMBOLS + 1, width)
        self.positions = nn.Parameter(torch.randn(n_inputs + n_places, width) * 0.1)
        block = nn.TransformerEncoderLayer(width, heads, 4 * width, dropout=0.0, batch_first=True, norm_first=True)
        self.blocks = nn.TransformerEncoder(block, layers, enable_nested_tensor=False)
        self.symbol, self.place = nn.Linear(width, SYMBOLS), nn.Linear(width, 1)

    def forward(self, inputs: Tensor, filled: Tensor) -> tuple[Tensor, Tensor]:  # [B, m], [B, n]
        h = self.blocks(self.symbols(torch.cat([inputs, filled], dim=1)) + self.positions)[:, self.n_inputs :]
        return self.symbol(h), self.place(h).squeeze(-1)


class Orderer(nn.Module):
    """VOI's encoder: it sees input and answer and gives x [B, n, n], how well each place fits each step."""

    def __init__(self, n_inputs: int, n_places: int, *, width: int = 64, layers: int = 2, heads: int = 4):
        super().__init__()
        self.decoder = Decoder(n_inputs, n_places, width=width, layers=layers, heads=heads)
        self.decoder.symbol, self.decoder.place = nn.Identity(), nn.Linear(width, 1)
        self.steps = nn.Linear(width, n_places)

    def forward(self, inputs: Tensor, answers: Tensor) -> Tensor:
        h, _ = self.decoder(inputs, answers)  # [B, n, width]
        return self.steps(h).transpose(1, 2)  # [B, steps, places]


def list_states(n: int) -> Tensor:
    """Which places are filled in each of the 2^n states: [2^n, n]; state s has place i filled where bit i of s is 1."""
    return torch.tensor([[bool(s >> i & 1) for i in range(n)] for s in range(2**n)])


def score_states(model: Decoder, inputs: Tensor, answers: Tensor, *, learned: bool = True) -> tuple[Tensor, Tensor]:
    """Log-probabilities, in every state, of filling each empty place next, and of the right symbol there.

    Two tensors [B, 2^n, n]; filled places have -inf in the first and 0 in the second. Unless the choice of places is
    ``learned``, all empty ones are equally likely.
    """
    n = answers.shape[1]
    states = list_states(n)
    filled = torch.where(states, answers[:, None], SYMBOLS).flatten(0, 1)  # [B 2^n, n]
    symbols, places = model(inputs.repeat_interleave(len(states), dim=0), filled)
    symbols = symbols.log_softmax(-1).view(len(answers), len(states), n, SYMBOLS)
    right = symbols.gather(3, answers[:, None, :, None].expand(-1, len(states), -1, 1)).squeeze(3)
    places = places.view(len(answers), len(states), n) if learned else torch.zeros(right.shape)
    places = places.masked_fill(states, -torch.inf)
    places[:, -1] = 0.0  # all is filled: nothing is left to choose
    return places.log_softmax(-1).masked_fill(states, -torch.inf), right.masked_fill(states, 0.0)


def sum_over_orders(places: Tensor, symbols: Tensor) -> Tensor:
    """The log-probability of reaching the full answer from every state, all orders together: [B, 2^n].

    Its first column is log p(answer | input), exactly, by going through the states from the fullest to the empty one.
    """
    n = places.shape[2]
    steps = places + symbols  # [B, 2^n, n]
    columns: dict[int, Tensor] = {2**n - 1: torch.zeros(len(places))}
    for s in sorted(range(2**n - 1), key=lambda s: -s.bit_count()):
        ways = [steps[:, s, i] + columns[s | 1 << i] for i in range(n) if not s >> i & 1]
        columns[s] = torch.logsumexp(torch.stack(ways), dim=0)
    return torch.stack([columns[s] for s in range(2**n)], dim=1)


def score_order(values: Tensor, orders: Tensor) -> Tensor:
    """The sum of ``values`` [B, 2^n, n] along orders [B, n] of places: [B]."""
    state, total = torch.zeros(len(orders), dtype=torch.long), torch.zeros(len(orders))
    rows = torch.arange(len(orders))
    for place in orders.T:
        total = total + values[rows, state, place]
        state = state | (1 << place)
    return total


def sample_posterior(places: Tensor, symbols: Tensor, generator: torch.Generator) -> Tensor:
    """One order [B, n] for each example from the exact posterior p(order | input, answer)."""
    reach, rows = sum_over_orders(places, symbols), torch.arange(len(places))
    state, chosen = torch.zeros(len(places), dtype=torch.long), []
    for _ in range(places.shape[2]):
        following = state[:, None] | (1 << torch.arange(places.shape[2]))  # [B, n]
        weights = (places + symbols)[rows, state] + reach.gather(1, following)
        place = torch.multinomial(weights.softmax(-1), 1, generator=generator).squeeze(1)
        chosen.append(place)
        state = state | (1 << place)
    return torch.stack(chosen, dim=1)


def list_orders(n: int) -> Tensor:
    """All n! orders of n places: [n!, n]."""
    return torch.tensor(list(itertools.permutations(range(n))))


def matching_law(x: Tensor) -> Tensor:
    """log q(order) of every order, exactly: q is proportional to exp of the sum of x[t, order[t]]; [n!] from [n, n].

    This is the law that VOI scores; its normaliser is the permanent of exp(x).
    """
    orders = list_orders(len(x))
    return x[torch.arange(len(x)), orders].sum(-1).log_softmax(0)


def sample_matchings(x: Tensor, *, n: int, generator: torch.Generator) -> Tensor:
    """``n`` orders [n, places] as VOI samples them: the best matching of x with Gumbel noise on every entry."""
    uniform = torch.rand(n, *x.shape, generator=generator).clamp(1e-9, 1 - 1e-7)
    noisy = x.detach() - torch.log(-torch.log(uniform))
    return torch.tensor(np.stack([linear_sum_assignment(one, maximize=True)[1] for one in noisy.numpy()]))


def bethe_marginals(x: Tensor, *, n_steps: int = 500) -> tuple[Tensor, Tensor]:
    """Bethe's approximation: how likely each place is at each step [n, n], and the log-permanent of exp(x).

    Sum-product messages to their fixed point. Source: Vontobel (2013), "The Bethe permanent of a nonnegative matrix".
    """
    root = (x - x.max()).div(2).exp().double()  # the largest entry is 1
    down, up = torch.ones_like(root), torch.ones_like(root)
    for _ in range(n_steps):
        rows, columns = root * up, root * down
        down = 0.5 * down + 0.5 * root / (rows.sum(1, keepdim=True) - rows)
        up = 0.5 * up + 0.5 * root / (columns.sum(0, keepdim=True) - columns)
    both = down * up
    value = (root * up).sum(1).log().sum() + (root * down).sum(0).log().sum() - (1 + both).log().sum()
    return (both / (1 + both)).float(), (value + len(x) * x.max()).float()


def sinkhorn_marginals(x: Tensor, *, n_steps: int = 200) -> Tensor:
    """exp(x) scaled until rows and columns sum to 1: [n, n]; VOI's relaxation. Source: Sinkhorn (1964)."""
    log_p = x.double()
    for _ in range(n_steps):
        log_p = log_p - log_p.logsumexp(1, keepdim=True)
        log_p = log_p - log_p.logsumexp(0, keepdim=True)
    return log_p.exp().float()


def score_paths(model: Decoder, inputs: Tensor, answers: Tensor, orders: Tensor, *, learned: bool) -> Tensor:
    """log p(answer, order | input) of one order [B, n] for each example: [B]; without ``learned``, of the answer alone.

    One row of the decoder for each step, which sees what the steps before it filled.
    """
    n, rank = answers.shape[1], orders.argsort(dim=1)  # rank: the step that fills a place
    done = rank[:, None] < torch.arange(n)[:, None]  # [B, steps, places]
    filled = torch.where(done, answers[:, None], SYMBOLS).flatten(0, 1)
    symbols, places = model(inputs.repeat_interleave(n, dim=0), filled)
    at = orders.flatten()  # [B n]
    right = answers.gather(1, orders).flatten()
    rows = torch.arange(len(at))
    total = symbols[rows, at].log_softmax(-1)[rows, right]
    if learned:
        total = total + places.masked_fill(done.flatten(0, 1), -torch.inf).log_softmax(-1)[rows, at]
    return total.view(len(answers), n).sum(1)


def _draw_orders(
    strategy: str, model: Decoder, orderer: Orderer | None, inputs: Tensor, answers: Tensor, generator: torch.Generator
) -> Tensor:
    """An order for each example, as the strategy has it: [B, n]."""
    n = answers.shape[1]
    if strategy == "left to right":
        return torch.arange(n).expand(len(answers), -1)
    if strategy == "right to left":
        return torch.arange(n - 1, -1, -1).expand(len(answers), -1)
    if strategy == "random":
        return torch.rand(answers.shape, generator=generator).argsort(dim=1)
    with torch.no_grad():
        if orderer is None:
            return sample_posterior(*score_states(model, inputs, answers), generator)
        return torch.cat([sample_matchings(x, n=1, generator=generator) for x in orderer(inputs, answers)])


def train_decoder(
    task: str,
    strategy: str,
    *,
    n_places: int,
    n_steps: int,
    seed: int,
    n_orders: int = 64,
    n_samples: int = 4,
    learning_rate: float = 2e-3,
) -> tuple[Decoder, Orderer | None]:
    """A decoder trained by one of the ``STRATEGIES``, each step on ``n_orders`` pairs of an example and an order.

    ``posterior``: orders from the exact posterior, so that the step ascends log p(answer | input). ``matching``: VOI.
    Each example comes with ``n_samples`` orders of the ``Orderer``, which is trained by REINFORCE on
    log p(answer, order) - log q(order), the mean over the samples as baseline; q is scored exactly. Its examples are
    fewer, its pairs as many. Raises ValueError for another strategy.
    """
    if strategy not in STRATEGIES:
        raise ValueError(f"unknown strategy {strategy!r}: choose among {', '.join(STRATEGIES)}")
    torch.manual_seed(seed)
    each = n_samples if strategy == "matching" else 1
    inputs, answers = draw_task(task, n_places=n_places, n=n_steps * n_orders // each, seed=seed)
    model = Decoder(inputs.shape[1], n_places)
    orderer = Orderer(inputs.shape[1], n_places) if strategy == "matching" else None
    weights = [{"params": model.parameters()}]
    weights += [{"params": orderer.parameters(), "lr": learning_rate / 4}] if orderer else []
    optimizer = torch.optim.AdamW(weights, lr=learning_rate, weight_decay=0.0)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, n_steps)
    generator = torch.Generator().manual_seed(seed)
    for x, y in zip(inputs.chunk(n_steps), answers.chunk(n_steps), strict=True):
        x, y = x.repeat_interleave(each, dim=0), y.repeat_interleave(each, dim=0)
        orders = _draw_orders(strategy, model, orderer, x, y, generator)
        scores = score_paths(model, x, y, orders, learned=strategy in LEARNED)
        loss = -scores.mean()
        if orderer is not None:
            loss = loss + _reinforce(orderer, x[::each], y[::each], orders, scores.detach())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval(), orderer


def _reinforce(orderer: Orderer, inputs: Tensor, answers: Tensor, orders: Tensor, scores: Tensor) -> Tensor:
    """A loss whose gradient is REINFORCE's for the evidence bound: [B] examples, [B K, n] orders, [B K] scores."""
    n, k = answers.shape[1], len(orders) // len(answers)
    x = orderer(inputs, answers).repeat_interleave(k, dim=0)  # [B K, n, n]
    every = x[:, torch.arange(n), list_orders(n)].sum(-1)  # [B K, n!]
    log_q = x.gather(2, orders[:, :, None]).squeeze(2).sum(1) - every.logsumexp(1)
    gain = (scores - log_q.detach()).view(-1, k)
    return -((gain - gain.mean(1, keepdim=True)).flatten() * log_q).mean()


@torch.no_grad()
def evaluate(model: Decoder, strategy: str, inputs: Tensor, answers: Tensor) -> tuple[Tensor, Tensor]:
    """log p(answer | input), exactly, [N], and how likely the order from right to left is given both, [N].

    A fixed order is certain, so its likelihood is that of the answer along it. Where places are ``LEARNED`` or random,
    all orders are summed over: no bound is compared with a likelihood.
    """
    n = answers.shape[1]
    backwards = torch.arange(n - 1, -1, -1).expand(len(answers), -1)
    places, symbols = score_states(model, inputs, answers, learned=strategy in LEARNED)
    if strategy in ("left to right", "right to left"):
        forwards = torch.arange(n).expand(len(answers), -1)
        order = forwards if strategy == "left to right" else backwards
        return score_order(symbols, order), torch.full((len(answers),), float(strategy == "right to left"))
    total = sum_over_orders(places, symbols)[:, 0]
    return total, (score_order(places + symbols, backwards) - total).exp()
