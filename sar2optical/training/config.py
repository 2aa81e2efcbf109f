"""What a training run is made of: what changes its result, and what only changes how it is run."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sar2optical.errors import OptionError

Upsampling = Literal["nearest", "bilinear", "bicubic"]
Architecture = Literal["pix2pix", "detail"]
DiscriminatorKind = Literal["patch", "pixel"]
Objective = Literal["vanilla", "lsgan", "hinge"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Side = Literal["host", "device"]


WEIGHTS = (
    "gan_weight", "l1_weight", "ssim_weight", "texture_weight", "multiscale_ssim_weight", "correlation_weight",
    "octave_weight", "squared_weight", "shift_weight",
)  # fmt: skip
"""Weights of the generator's terms, in the order of `sar2optical.training.trainer.Losses`."""


MULTIPLES: dict[str, int] = {"pix2pix": 256, "detail": 64}
"""What the side of a window is a multiple of, by architecture: 2 ** depth of the generator."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Everything that changes a run's weights; saved whole in its state.

    The defaults are pix2pix's, with augmentation, a falling learning rate and a moving average of the weights;
    `SEED_RECIPE` takes those away again, as in the system that this one re-implements.
    """

    architecture: Architecture = "pix2pix"
    """Of the generator: pix2pix's U-Net, or "detail", see `sar2optical.models.detail`."""
    base_channels: int = 64
    """Width of the generator (64 in Isola et al. 2017)."""
    upsampling: Upsampling | None = None
    """None: transposed convolution; else upsampling by this mode, then a 3 x 3 convolution."""
    discriminator: DiscriminatorKind = "patch"
    """Judges overlapping patches, or single pixels."""
    discriminator_channels: int = 64
    """Width of the discriminator (64 in Isola et al. 2017)."""
    discriminator_layers: int = 3
    """Depth of "patch": 3 sees 70 x 70 pixels."""
    discriminator_scales: int = 1
    """Discriminators, each for images of half the size of the one before."""
    spectral_norm: bool = False
    """Of the discriminator's convolutions, in place of batch norm, see `patchgan.with_spectral_norm`."""
    conditional: bool = True
    """Whether the discriminator sees the SAR image beside the optical one."""

    objective: Objective = "vanilla"
    """Cross entropy (Goodfellow et al. 2014), least squares (Mao et al. 2017) or hinge (Lim and Ye 2017)."""
    gan_weight: float = 1.0
    """Weight of the adversarial term; 0 trains without a discriminator."""
    gan_from: float = 0.0
    """Share of the steps after which the discriminator joins in."""
    l1_weight: float = 100.0
    """Weight of L1 against the adversarial term (Isola et al. 2017, equation 4)."""
    ssim_weight: float = 0.0
    """Weight of 1 - SSIM."""
    texture_weight: float = 0.0
    """Weight of the error of local gradient energy at single pixels, see `losses.texture_loss`."""
    multiscale_ssim_weight: float = 0.0
    """Weight of 1 - SSIM after averaging 2 x 2 and 4 x 4 pixels, see `losses.multiscale_ssim_loss`."""
    correlation_weight: float = 0.0
    """Weight of 1 - correlation at three scales, see `losses.correlation_loss`."""
    octave_weight: float = 0.0
    """Weight of the error of local gradient energy per octave, see `losses.octave_loss`: without it, images blur."""
    squared_weight: float = 0.0
    """Weight of the mean squared difference. Where `octave_weight` asks for detail, L1 is least with few bright
    specks; this one does not prefer them."""
    shift_weight: float = 0.0
    """Weight of the difference between windows and copies shifted by up to 17 pixels, which join the batch and double
    its cost; see `sar2optical.training.shifting`."""

    epochs: int = 200
    """Passes over the training windows; `steps` overrules it."""
    steps: int | None = None
    """Updates of the generator."""
    batch: int = 32
    """Pairs per forward pass, on all devices together."""
    accumulate: int = 1
    """Forward passes per update."""
    learning_rate: float = 2e-4
    """Adam's step (Isola et al. 2017, section 3.3)."""
    beta1: float = 0.5
    """Adam's first momentum (same source)."""
    beta2: float = 0.999
    """Adam's second momentum (same source)."""
    decay_from: float = 0.5
    """Share of the steps after which the learning rate falls linearly to 0; 1: never."""
    ema_decay: float = 0.999
    """Of the moving average of weights and batch-norm statistics, which is what is evaluated and kept; 0: the
    weights themselves are."""

    window: int = 256
    """Side of a training window in pixels, see `MULTIPLES`."""
    crop: bool = True
    """Cut windows at random places; else on the grid of whole windows."""
    flip: bool = True
    """Mirror half of the windows."""
    turn: bool = True
    """Turn windows by 0, 90, 180 or 270 degrees."""
    zoom: int = 1
    """Largest whole factor by which windows of larger chips are reduced: 3 makes 30 m of 10 m. A sixth of the windows
    is reduced, where a chip allows it."""
    vary_sar: float = 0.0
    """Share of the SAR windows whose speckle, looks, incidence, stretch and unit are varied, see
    `data.augment.vary_sar`."""
    balance: float = 0.0
    """How far small terrain classes are shown as often as large ones: a class of n windows has a weight of
    n ** (1 - balance). 0: each window once an epoch; 1: each class equally often."""

    windows_on: Side = "host"
    """Where windows are cut and varied: "host" by threads, from chips of any number; "device" in the memory of the
    device, which holds all chips, see `sar2optical.training.device_batches`."""
    precision: Precision = "auto"
    """Of the arithmetic: torch.autocast to bf16 or fp16 (with loss scaling); auto takes bf16 where the hardware
    has it, and a run that goes on takes what it began with."""
    channels_last: bool = True
    """Memory layout of the images."""
    compile: bool = False
    """Compile generator, discriminator and losses (torch.compile)."""
    seed: int = 42
    """Of the first weights, the order of the windows and the dropout."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 or more, under 2 ** 32")
        for name in ("base_channels", "discriminator_channels", "discriminator_layers", "discriminator_scales",
                     "epochs", "accumulate", "zoom"):  # fmt: skip
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _check("steps", self.steps, self.steps is None or self.steps >= 1, "1 or more")
        # At the bottleneck a window is one pixel, and batch norm has nothing to normalise it with.
        _check("batch", self.batch, self.batch >= 2, "2 or more")
        if self.architecture in MULTIPLES:  # others are refused below
            self._check_window(MULTIPLES[self.architecture])
        for name in ("gan_from", "decay_from", "balance", "vary_sar"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) <= 1, "a share from 0 to 1")
        for name in ("beta1", "beta2", "ema_decay"):
            _check(name, getattr(self, name), 0 <= getattr(self, name) < 1, "0 or more, under 1")
        for name in WEIGHTS:
            _check(name, getattr(self, name), 0 <= getattr(self, name) < float("inf"), "0 or more")
        _check("learning_rate", self.learning_rate, 0 < self.learning_rate < float("inf"), "more than 0")
        kinds = {
            "architecture": get_args(Architecture),
            "upsampling": (None, *get_args(Upsampling)),
            "discriminator": get_args(DiscriminatorKind),
            "objective": get_args(Objective),
            "precision": get_args(Precision),
            "windows_on": get_args(Side),
        }
        for name, choices in kinds.items():
            _check(name, getattr(self, name), getattr(self, name) in choices, " or ".join(map(str, choices)))

    def _check_window(self, multiple: int) -> None:
        smaller = MULTIPLES["detail"]
        fits = f", or architecture detail, which takes multiples of {smaller}" if multiple > smaller else ""
        holds = self.window >= multiple and self.window % multiple == 0
        _check("window", self.window, holds, f"a multiple of {multiple}{fits}")

    def to_dict(self) -> dict[str, Any]:
        """Give the settings as plain values."""
        return asdict(self)

    def gan_at(self, step: int, steps: int) -> bool:
        """Say whether the discriminator takes part in a step, of so many."""
        return self.gan_weight > 0 and step >= self.gan_from * steps

    def rate_at(self, step: int, steps: int) -> float:
        """Give the learning rate of a step: constant, then linearly down to 0 past the last one."""
        left = (steps - step) / max(steps - self.decay_from * steps, 1)
        return self.learning_rate * min(1.0, left)


SEED_RECIPE: dict[str, Any] = {
    "decay_from": 1.0,
    "ema_decay": 0.0,
    "crop": False,
    "flip": False,
    "turn": False,
    "precision": "fp32",
    "channels_last": False,
}
"""What the re-implemented system does where its configuration file has no say, so that the file gives its run."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """How a run is carried out; may differ when it goes on."""

    device: str = "auto"
    """auto, cpu, cuda, or one of Lightning's other accelerators (mps)."""
    devices: int | None = None
    """Devices, or processes on a CPU; where None, one, or under torchrun as many as it has started here."""
    threads: int | None = None
    """CPU threads of the arithmetic; PyTorch's choice where None."""
    workers: int = 2
    """Threads that prepare windows ahead; 0: prepared when needed."""
    save_every: float = 5.0
    """Epochs between saves."""
    eval_every: float = 5.0
    """Epochs between evaluations."""
    keep: int = 3
    """Numbered generators that are kept beside the newest; 0: all."""
    tensorboard: bool = True
    """Write TensorBoard's event files, where it is installed."""
    comet: str | None = None
    """Comet project to report to."""
    comet_name: str | None = None
    """What the run is called there."""
    comet_entity: str | None = None
    """Comet workspace."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("devices", "threads"):
            value = getattr(self, name)
            _check(name, value, value is None or value >= 1, "1 or more")
        for name in ("workers", "keep"):
            _check(name, getattr(self, name), getattr(self, name) >= 0, "0 or more")
        for name in ("save_every", "eval_every"):
            _check(name, getattr(self, name), getattr(self, name) > 0, "more than 0")


def differences(one: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """List the settings that differ, as "name one/other"."""
    names = [field.name for field in fields(TrainConfig)]
    names += [name for name in (*one, *other) if name not in names]
    return [f"{name} {one.get(name)}/{other.get(name)}" for name in names if one.get(name) != other.get(name)]


def _check_types(settings: Any) -> None:
    """Refuse values of other types than the fields': a configuration file may hold anything."""
    for name, hint in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        kinds = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        if not any(_is_a(value, kind) for kind in kinds):
            wanted = " or ".join(_WORDS[kind] for kind in kinds if kind in _WORDS)
            raise OptionError(f"{name} is {value!r}: give {wanted}")


_WORDS = {int: "a whole number", float: "a number", bool: "true or false", str: "text"}


def _is_a(value: Any, kind: Any) -> bool:
    if kind is float:
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind is int:
        return isinstance(value, int) and not isinstance(value, bool)
    # Which words a Literal allows is checked, and listed, by the fields themselves.
    return get_origin(kind) is Literal or isinstance(value, kind)


def _check(name: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value}: give {wanted}")
