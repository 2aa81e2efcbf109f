"""Everything that changes a training run."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from sar2optical.errors import OptionError


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that changes a run; saved whole in the checkpoint."""

    steps: int = 3600
    """Optimizer steps of the generator (and of the discriminator)."""
    batch: int = 8
    """Pairs per step."""
    window: int = 256
    """Side of a training window in pixels."""
    base_channels: int = 24
    """Width of the generator (64 in Isola et al. 2017)."""
    discriminator_channels: int = 32
    """Width of the discriminator (64 in Isola et al. 2017)."""
    learning_rate: float = 2e-4
    """Adam's step (Isola et al. 2017, section 3.3)."""
    beta1: float = 0.5
    """Adam's first momentum (same source)."""
    beta2: float = 0.999
    """Adam's second momentum (same source)."""
    l1_weight: float = 100.0
    """Weight of L1 against the adversarial term (same source, equation 4)."""
    finish_from: float = 1.0
    """Share of the steps after which `finish_l1_weight` is in force; 1: never."""
    finish_l1_weight: float = 100.0
    """Weight of L1 at the end. A higher one trades texture that the discriminator likes for fidelity."""
    decay_from: float = 0.5
    """Share of the steps after which the learning rate falls linearly to 0."""
    ema_decay: float = 0.999
    """Of the moving average of weights and batch-norm statistics; the average is what is kept."""
    bf16: bool = True
    """Compute in bfloat16 where it is safe to (torch.autocast)."""
    seed: int = 1
    """Of the first weights, the windows and the dropout."""

    def __post_init__(self) -> None:
        if self.steps < 1:
            raise OptionError(f"steps is {self.steps}: give 1 or more")
        if self.batch < 2:
            # At the bottleneck a window is one pixel, and batch norm has nothing to normalise it with.
            raise OptionError(f"batch is {self.batch}: give 2 or more")

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain values."""
        return asdict(self)

    def l1_weight_at(self, step: int) -> float:
        """Give the weight of L1 at a step."""
        return self.l1_weight if step < self.finish_from * self.steps else self.finish_l1_weight

    def rate_at(self, step: int) -> float:
        """Give the learning rate of a step: constant, then linearly down to 0 past the last one."""
        start = self.decay_from * self.steps
        left = (self.steps - step) / max(self.steps - start, 1)
        return self.learning_rate * min(1.0, left)
