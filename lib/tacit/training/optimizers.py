"""Optimizers: AdamW for weights that are held in less than float32, and Muon with AdamW for pretraining."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.adamw import adamw

from tacit.support.provenance import cpu_multiplies_bf16


class MasterAdamW(Optimizer):
    """AdamW on a float32 copy of every weight; the weight itself is that copy, rounded to the weight's own dtype.

    A bfloat16 weight has 8 significant bits. Plain AdamW drops any update below half of its last bit, about w / 512.
    At finetuning's learning rates (1e-5) these are most updates; here they add up in the copy. Held per weight are
    the copy and both moments in float32 (12 bytes), beside the weight and its gradient; float32 weights are their own
    copies. The rounding of bfloat16 gradients, and of their sum over micro batches, is not undone. It cannot be
    resumed: torch's ``load_state_dict`` would round the copies. Source: Micikevicius et al. (2018, arXiv 1710.03740,
    section 3.1).
    """

    def __init__(self, params, *, lr: float, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step from the weights' gradients (fused on CUDA); weights without one stay as they are.

        ``closure``, if given, is called first, with gradients on, and its result returned.
        """
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            for weight in (w for w in group["params"] if w.grad is not None):
                self._step_weight(weight, group)
        return loss

    def _step_weight(self, weight: torch.nn.Parameter, group: dict) -> None:
        state, full = self.state[weight], weight.dtype == torch.float32
        if not state:
            state["copy"] = None if full else weight.detach().float()
            reference = weight if full else state["copy"]
            state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
            state["exp_avg"], state["exp_avg_sq"] = torch.zeros_like(reference), torch.zeros_like(reference)
        adamw(
            [weight if full else state["copy"]],
            [weight.grad.float()],
            [state["exp_avg"]],
            [state["exp_avg_sq"]],
            [],
            [state["step"]],
            foreach=False,
            fused=weight.device.type == "cuda",
            amsgrad=False,
            maximize=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            **{name: group[name] for name in ("lr", "weight_decay", "eps")},
        )
        if not full:
            weight.copy_(state["copy"])


def orthogonalize(matrix: torch.Tensor, *, coefficients: tuple[float, float, float], steps: int, eps: float):
    """A float32 matrix [rows, columns] with its singular values moved near 1, by Newton and Schulz's iteration.

    Source: Jordan et al. (2024, Muon). torch's own function does the same in bfloat16.
    """
    a, b, c = coefficients
    wide = matrix if matrix.shape[0] <= matrix.shape[1] else matrix.T  # [least, most]
    wide = wide / wide.norm().clamp(min=eps)
    for _ in range(steps):
        gram = wide @ wide.T  # [least, least]
        wide = torch.addmm(wide, torch.addmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide if matrix.shape[0] <= matrix.shape[1] else wide.T


class Float32Muon(torch.optim.Muon):
    """torch's Muon with its products in float32, for processors that multiply bfloat16 slowly.

    There two thirds of a small model's pretraining went into those products (LOG.md).
    """

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step from the weights' gradients, as torch's; ``closure``, if given, is called first."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for group in self.param_groups:
            shape = {"coefficients": group["ns_coefficients"], "steps": group["ns_steps"], "eps": group["eps"]}
            for weight in (w for w in group["params"] if w.grad is not None):
                state, momentum = self.state[weight], group["momentum"]
                state.setdefault("momentum_buffer", torch.zeros_like(weight.grad)).lerp_(weight.grad, 1 - momentum)
                buffer = state["momentum_buffer"]
                update = weight.grad.lerp(buffer, momentum) if group["nesterov"] else buffer
                scale = 0.2 * max(weight.shape) ** 0.5  # match_rms_adamw
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.add_(orthogonalize(update, **shape), alpha=-group["lr"] * scale)
        return loss


class MuonAdamW(Optimizer):
    """Muon on the hidden matrices and AdamW on everything else, as one optimizer for the Trainer.

    Both are torch's own (but ``Float32Muon`` where bfloat16 is slow); this class only forwards to them. Muon's step is
    scaled to AdamW's root mean square (``match_rms_adamw``), so that one schedule serves both.
    """

    def __init__(self, model: torch.nn.Module, *, learning_rate: float, weight_decay: float):
        embeddings = {id(m.weight) for m in model.modules() if isinstance(m, torch.nn.Embedding)}
        parameters = [p for p in model.parameters() if p.requires_grad]
        hidden = [p for p in parameters if p.ndim == 2 and id(p) not in embeddings]
        hidden_ids = {id(p) for p in hidden}
        others = [p for p in parameters if id(p) not in hidden_ids]
        slow = hidden[:1] and hidden[0].device.type == "cpu" and not cpu_multiplies_bf16()
        muon = Float32Muon if slow else torch.optim.Muon
        self.parts = [
            muon(hidden, lr=learning_rate, weight_decay=weight_decay, adjust_lr_fn="match_rms_adamw"),
            torch.optim.AdamW(others, lr=learning_rate, betas=(0.9, 0.95), weight_decay=0.0),
        ]
        super().__init__([group for part in self.parts for group in part.param_groups], {})
        for part, group in zip(self.parts, self.param_groups, strict=True):
            part.param_groups = [group]  # a scheduler that sets our groups' rates sets theirs

    def step(self, closure=None):
        """One step of both optimizers."""
        for part in self.parts:
            part.step()
        return None if closure is None else closure()

    def state_dict(self) -> dict:
        """The states of both, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict) -> None:
        """Restore both, keeping the groups that a scheduler sets shared."""
        for part, group, state in zip(self.parts, self.param_groups, state_dict["parts"], strict=True):
            part.load_state_dict(state)
            group.update({k: v for k, v in part.param_groups[0].items() if k != "params"})
            part.param_groups = [group]
