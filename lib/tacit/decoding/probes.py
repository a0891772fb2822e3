"""A look at an architecture that the tests do not know, before it is trusted with a padded batch and a cache."""

from __future__ import annotations

import torch
from transformers import GenerationConfig, PreTrainedModel

from tacit.decoding.caches import make_cache
from tacit.decoding.slots import KNOWN
from tacit.models.experts import members
from tacit.models.internals import takes_cache
from tacit.support.errors import TacitError, first_line

LENGTHS, STEPS = (11, 4), 3  # tokens of the two prompts, which are padded to one width, and of each response
APART = {torch.float32: 1e-3, torch.float64: 1e-3}  # of the logits' spread, what rounding explains; in others 0.1


@torch.inference_mode()
def check_decoding(model: PreTrainedModel) -> None:
    """Raise TacitError unless an unknown architecture decodes two padded rows as it reads each alone without a cache.

    The architectures of ``slots.KNOWN`` pass unseen, since the tests compare them. A recurrent model whose state takes
    in the padding, as RWKV's does, fails: it would answer other texts in a batch, silently.
    """
    for part in members(model):
        if part.config.get_text_config(decoder=True).model_type in KNOWN:
            continue
        name = type(part).__name__
        try:
            apart = _distance(part)
        except Exception as error:  # an architecture may fail at anything that it was not written for
            raise TacitError(f"{name} cannot be decoded here ({type(error).__name__}: {first_line(error)})") from error
        if not apart <= APART.get(part.dtype, 0.1):
            raise TacitError(
                f"{name} answers otherwise in a padded batch with a cache than alone without one (logits differ by "
                f"{apart:.2g} of their spread): its texts would depend on the batch; choose another architecture"
            )


def _distance(model: PreTrainedModel) -> float:
    """The largest mean difference of a step's logits, batched and alone, over their standard deviation."""
    n, width = model.config.get_text_config(decoder=True).vocab_size, max(LENGTHS)
    rows = [[(7 * i + 3 * length) % n for i in range(length)] for length in LENGTHS]
    ids = torch.tensor([[0] * (width - len(row)) + row for row in rows], device=model.device)  # [2, W]
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=model.device)
    own, model.generation_config = model.generation_config, GenerationConfig(pad_token_id=0)  # greedy, without an end
    try:
        out = model.generate(
            input_ids=ids,
            attention_mask=mask,
            max_new_tokens=STEPS,
            use_cache=True,
            past_key_values=make_cache(model) if takes_cache(model) else None,
            output_logits=True,
            return_dict_in_generate=True,
        )
    finally:
        model.generation_config = own
    batched = torch.stack(out.logits, dim=1).float()  # [2, STEPS, V]
    distances = []
    for place, (row, new) in enumerate(zip(rows, out.sequences[:, width:].tolist(), strict=True)):
        whole = torch.tensor([row + new], device=model.device)
        alone = model(input_ids=whole, use_cache=False).logits[0, len(row) - 1 : -1].float()  # [STEPS, V]
        distances.append(((batched[place] - alone).abs().mean() / alone.std()).item())
    return max(distances)
