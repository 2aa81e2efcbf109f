"""Script that test_training runs with torchrun: two steps on two ranks, with the gradients of each rank."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import torch
from lightning_fabric import Fabric

from sar2optical.training.batches import Batches
from sar2optical.training.trainer import Trainer
from tests.conftest import BYTES
from tests.training.test_training import TINY, pairs, weights


class Recording(Trainer):
    """Keeps each network's gradients before and after they are averaged."""

    own, mean = [], []

    def _average_gradients(self, net):
        self.own.append(self._flat(net))
        super()._average_gradients(net)
        self.mean.append(self._flat(net))

    @staticmethod
    def _flat(net):
        return torch.cat([p.grad.flatten().clone() for p in net.parameters() if p.grad is not None])


torch.set_num_threads(1)
fabric = Fabric(accelerator="cpu", devices=2, strategy="ddp")
fabric.launch()
config = replace(TINY, batch=4)
trainer = Recording(config, BYTES, steps=4, fabric=fabric)
first = weights(trainer.generator)
batches = Batches(pairs(4), config, rank=fabric.global_rank, ranks=fabric.world_size)
for k in range(2):
    trainer.advance([batches.batch(k)])
trainer.sync_statistics()
torch.save(
    {
        "own": trainer.own,
        "mean": trainer.mean,
        "first": first,
        "generator": weights(trainer.generator),
        "discriminator": weights(trainer.discriminator),
    },
    Path(sys.argv[1]) / f"rank{fabric.global_rank}.pth",
)
# A rank that exits while the other still communicates makes that one fail.
fabric.barrier()
torch.distributed.destroy_process_group()
