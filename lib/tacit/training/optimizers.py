"""AdamW for weights that are held in less than float32."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch.optim import Optimizer
from torch.optim.adamw import adamw


class MasterAdamW(Optimizer):
    """AdamW on a float32 copy of every weight; the weight itself is that copy, rounded to the weight's own dtype.

    A bfloat16 weight has 8 significant bits. Plain AdamW drops any update below half of its last bit, about w / 512, which at
    finetuning's learning rates (1e-5) is most of them; here they add up in the copy. Held per weight: the float32 copy and both float32
    moments (12 bytes), beside the weight and its gradient; a gradient is made float32 one tensor at a time, so that no second copy of all
    gradients exists. Weights that are float32 already are their own copy, and this is torch's AdamW.

    Source: Micikevicius et al. (2018, arXiv 1710.03740), section 3.1, for the copy; torch.optim.adamw for the step. Gradients are what
    they are: of bfloat16 weights they are bfloat16, also their sum over micro batches. Not for resuming: torch's ``load_state_dict``
    would round the copies to the weights' dtype.
    """

    def __init__(self, params, *, lr: float, betas=(0.9, 0.999), eps: float = 1e-8, weight_decay: float = 0.0) -> None:
        super().__init__(params, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable | None = None):
        """One step from the weights' gradients; weights without one stay as they are.

        A weight's first step makes its float32 copy (unless it is float32) and moments of 0. Each step makes its gradient float32,
        takes AdamW's step on the copy (fused on CUDA) and rounds the copy into the weight. ``closure``, if given, is called first, with
        gradients on, and what it returns is returned; else None. Gradients are neither clipped, scaled nor cleared.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for weight in (w for w in group["params"] if w.grad is not None):
                state, full = self.state[weight], weight.dtype == torch.float32
                if not state:
                    state["step"] = torch.zeros((), dtype=torch.float32, device=weight.device)
                    state["copy"] = None if full else weight.detach().float()
                    reference = weight if full else state["copy"]
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
                    lr=group["lr"],
                    weight_decay=group["weight_decay"],
                    eps=group["eps"],
                )
                if not full:
                    weight.copy_(state["copy"])
        return loss
