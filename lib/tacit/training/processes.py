"""Several processes, as ``accelerate launch`` starts them: the batches of one process, a whole model from shards."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Sequence

import torch
from accelerate.utils import broadcast_object_list
from torch.utils.data import ConcatDataset, DataLoader, Sampler
from transformers import AutoModelForCausalLM, PreTrainedModel, Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler

from tacit.data.instructions import IGNORED
from tacit.models.loading import without_progress_bars


class RankBatches(Sampler):
    """The batches of one of several processes, which together train on what a single process would.

    The main process's ``order`` gives an epoch's indices, whatever the others' random states are; each run of
    ``batch_size`` is one step. Its examples go round the processes, ``micro`` at a time to each, so that those of like
    length are handled at the same moment. Where a last step has too few for all, a process gets the row ``blank``,
    which bears no loss: no example counts twice, as with accelerate's ``even_batches``.
    """

    def __init__(
        self, order: Callable[[], Sequence[int]], *, rows: int, batch_size: int, micro: int, rank: int, processes: int
    ) -> None:
        self.order, self.rows, self.batch_size, self.blank = order, rows, batch_size, rows
        self.rank, self.processes, self.at_once = rank, processes, micro * processes

    def __len__(self) -> int:
        full, rest = divmod(self.rows, self.batch_size)
        return full * (self.batch_size // self.at_once) + -(-rest // self.at_once)

    def __iter__(self) -> Iterator[list[int]]:
        order = broadcast_object_list([list(self.order())])[0]
        for start in range(0, self.rows, self.batch_size):
            step = order[start : start + self.batch_size]
            for first in range(0, len(step), self.at_once):
                yield step[first : first + self.at_once][self.rank :: self.processes] or [self.blank]


class RanksTrainer(Trainer):
    """A Trainer for several processes, which together see the batches that one would see, in its order."""

    def get_train_dataloader(self) -> DataLoader:
        """This process's share of the batches of like length that the Trainer of one process draws."""
        rows, arguments = self.train_dataset, self.args
        batch_size = arguments.train_batch_size * arguments.gradient_accumulation_steps * arguments.world_size
        grouped = LengthGroupedSampler(batch_size, lengths=list(rows["length"]))
        batches = RankBatches(
            lambda: list(grouped),
            rows=len(rows),
            batch_size=batch_size,
            micro=arguments.train_batch_size,
            rank=arguments.process_index,
            processes=arguments.world_size,
        )
        blank = {"input_ids": rows[0]["input_ids"][:2], "labels": [IGNORED, IGNORED]}
        return DataLoader(ConcatDataset([rows, [blank]]), batch_sampler=batches, collate_fn=self.data_collator)


def gather_model(trainer: Trainer, plain: type[PreTrainedModel], *, attention: str) -> PreTrainedModel:
    """The whole model from its shards, on the main process's CPU; elsewhere one without values (device ``meta``).

    ``plain`` is the model's class before it was sharded, and ``attention`` the implementation that it gets.
    """
    weights = trainer.accelerator.get_state_dict(trainer.model)  # every process takes part
    config = copy.deepcopy(trainer.model.config)
    if not trainer.accelerator.is_main_process:
        with torch.device("meta"):
            return AutoModelForCausalLM.from_config(config, attn_implementation=attention)
    held = next(iter(weights.values())).dtype
    with without_progress_bars():
        whole = plain.from_pretrained(
            None, config=config, state_dict=weights, dtype=held, attn_implementation=attention
        )
    whole.generation_config = copy.deepcopy(trainer.model.generation_config)
    return whole
