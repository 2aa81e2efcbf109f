"""Settings of a training run: `TrainConfig` changes its result, `RunOptions` only its execution."""

from __future__ import annotations

from dataclasses import asdict, dataclass, fields
from types import UnionType
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from sar2optical.errors import OptionError

__all__ = [
    "MULTIPLES",
    "SEED_RECIPE",
    "SETTINGS",
    "SPLIT",
    "WEIGHTS",
    "Architecture",
    "DiscriminatorKind",
    "Objective",
    "Precision",
    "RunOptions",
    "Side",
    "TrainConfig",
    "Upsampling",
    "differences",
]

Upsampling = Literal["nearest", "bilinear", "bicubic"]
Architecture = Literal["pix2pix", "detail"]
DiscriminatorKind = Literal["patch", "pixel"]
Objective = Literal["vanilla", "lsgan", "hinge"]
Precision = Literal["auto", "fp32", "bf16", "fp16"]
Side = Literal["host", "device"]

SPLIT, SETTINGS = "split.json", "args.yaml"
"""File names of the split that was made for a run, and of its settings, in its folder."""

WEIGHTS = (
    "gan_weight", "l1_weight", "ssim_weight", "texture_weight", "multiscale_ssim_weight", "correlation_weight",
    "octave_weight", "squared_weight", "shift_weight",
)  # fmt: skip
"""Names of the weights of the generator's terms, in the order of `sar2optical.training.trainer.Losses`."""

MULTIPLES: dict[str, int] = {"pix2pix": 256, "detail": 64}
"""By architecture, the number that the side of a window must be a multiple of: 2 ** depth of the generator."""


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """All settings that change a run's weights; saved in its state.

    The defaults are pix2pix's, with augmentation, a falling learning rate and a moving average of the weights.
    `SEED_RECIPE` switches these off, as in the re-implemented system.
    """

    architecture: Architecture = "pix2pix"
    """Architecture of the generator: pix2pix's U-Net, or "detail", see `sar2optical.models.detail`."""
    base_channels: int = 64
    """Width of the generator (64 in Isola et al. 2017)."""
    upsampling: Upsampling | None = None
    """Mode of upsampling before a 3 x 3 convolution; None uses transposed convolution."""
    discriminator: DiscriminatorKind = "patch"
    """Type of the discriminator: classifies overlapping patches, or single pixels."""
    discriminator_channels: int | None = None
    """Width of the discriminator (64 in Isola et al. 2017); None takes that of the generator."""
    discriminator_layers: int = 3
    """Depth of "patch"; 3 gives a receptive field of 70 x 70 pixels."""
    discriminator_scales: int = 1
    """Number of discriminators, each for images of half the size of the one before."""
    spectral_norm: bool = False
    """Use spectral norm instead of batch norm in the discriminator, see `patchgan.with_spectral_norm`."""
    conditional: bool = True
    """Whether the discriminator's input includes the SAR image."""

    objective: Objective = "vanilla"
    """Adversarial objective: cross entropy (Goodfellow et al. 2014), least squares (Mao et al. 2017) or
    hinge (Lim and Ye 2017)."""
    gan_weight: float = 1.0
    """Weight of the adversarial term; 0 trains without a discriminator."""
    gan_from: float = 0.0
    """Share of the steps after which the adversarial term is used."""
    l1_weight: float = 100.0
    """Weight of L1 (Isola et al. 2017, equation 4)."""
    ssim_weight: float = 0.0
    """Weight of 1 - SSIM."""
    texture_weight: float = 0.0
    """Weight of the error of local gradient energy at single pixels, see `losses.texture_loss`."""
    multiscale_ssim_weight: float = 0.0
    """Weight of 1 - SSIM after averaging 2 x 2 and 4 x 4 pixels, see `losses.multiscale_ssim_loss`."""
    correlation_weight: float = 0.0
    """Weight of 1 - correlation at three scales, see `losses.correlation_loss`."""
    octave_weight: float = 0.0
    """Weight of the error of local gradient energy per octave, see `losses.octave_loss`; without it, images
    are blurred."""
    squared_weight: float = 0.0
    """Weight of the mean squared difference. With `octave_weight`, L1 alone is minimised by a few bright specks; this
    term prevents them."""
    shift_weight: float = 0.0
    """Weight of the difference between windows and copies shifted by up to 17 pixels, which double a batch's cost;
    see `sar2optical.training.shifting`."""

    epochs: int = 200
    """Passes over the training windows; ignored if `steps` is given."""
    steps: int | None = None
    """Number of updates of the generator."""
    batch: int = 32
    """Pairs per forward pass, summed over all devices."""
    accumulate: int = 1
    """Forward passes per update."""
    learning_rate: float = 2e-4
    """Learning rate of Adam (Isola et al. 2017, section 3.3)."""
    beta1: float = 0.5
    """Adam's first momentum (same source)."""
    beta2: float = 0.999
    """Adam's second momentum (same source)."""
    decay_from: float = 0.5
    """Share of the steps after which the learning rate falls linearly to 0; 1 keeps it constant."""
    ema_decay: float = 0.999
    """Decay of the moving average of weights and batch-norm statistics, which is evaluated and saved; 0 uses the
    weights themselves."""

    window: int = 256
    """Side of a training window in pixels, a multiple of `MULTIPLES`."""
    crop: bool = True
    """Cut windows at random positions; False cuts on the grid of whole windows."""
    flip: bool = True
    """Mirror half of the windows."""
    turn: bool = True
    """Turn windows by 0, 90, 180 or 270 degrees."""
    zoom: int = 1
    """Largest integer factor by which windows of larger chips are reduced; 3 simulates 30 m from 10 m. A sixth of the
    windows is reduced, if the chip is large enough."""
    vary_sar: float = 0.0
    """Share of the windows with varied speckle, looks, incidence, stretch and unit, see `data.augment.vary_sar`."""
    balance: float = 0.0
    """Balance of the terrain classes: a class of n windows has a weight of n ** (1 - balance). 0 uses each window
    once per epoch, 1 uses each class equally often."""

    windows_on: Side = "host"
    """Where windows are cut and varied: "host" in CPU threads, for any number of chips; "device" on the device, whose
    memory must hold all chips, see `sar2optical.training.device_batches`."""
    precision: Precision = "auto"
    """Precision of the arithmetic: torch.autocast to bf16 or fp16 (with loss scaling). "auto" takes bf16 if the
    hardware supports it; a resumed run keeps its precision."""
    channels_last: bool = True
    """Use the channels-last memory layout."""
    compile: bool = False
    """Compile generator, discriminator and losses with torch.compile."""
    seed: int = 42
    """Seed of the initial weights, the order of the windows and the dropout."""

    def __post_init__(self) -> None:
        _check_types(self)
        _check("seed", self.seed, 0 <= self.seed < 2**32, "0 or more, under 2 ** 32")
        _check("base_channels", self.base_channels, self.base_channels >= 1, "1 or more")
        _check("discriminator_channels", self.discriminator_channels, self.discriminator_width >= 1, "1 or more")
        for name in ("discriminator_layers", "discriminator_scales", "epochs", "accumulate", "zoom"):
            _check(name, getattr(self, name), getattr(self, name) >= 1, "1 or more")
        _check("steps", self.steps, self.steps is None or self.steps >= 1, "1 or more")
        # At the bottleneck a window is one pixel, so batch norm needs two of them.
        _check("batch", self.batch, self.batch >= 2, "2 or more")
        if self.architecture in MULTIPLES:  # other names are refused below
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
        fits = f", or use architecture detail, which takes multiples of {smaller}" if multiple > smaller else ""
        holds = self.window >= multiple and self.window % multiple == 0
        _check("window", self.window, holds, f"a multiple of {multiple}{fits}")

    @property
    def discriminator_width(self) -> int:
        """Width of the discriminator."""
        return self.base_channels if self.discriminator_channels is None else self.discriminator_channels

    def to_dict(self) -> dict[str, Any]:
        """Convert the settings to plain values."""
        return asdict(self) | {"discriminator_channels": self.discriminator_width}

    def gan_at(self, step: int, steps: int) -> bool:
        """Whether the adversarial term is used in a step of a run of `steps`."""
        return self.gan_weight > 0 and step >= self.gan_from * steps

    def rate_at(self, step: int, steps: int) -> float:
        """Compute the learning rate of a step: constant, then falling linearly to 0 after the last step."""
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
"""Settings of the re-implemented system that its configuration file does not contain."""


@dataclass(frozen=True, kw_only=True)
class RunOptions:
    """Settings of the execution of a run; may change when the run is resumed."""

    device: str = "auto"
    """Device: auto, cpu, cuda, or another accelerator of Lightning Fabric (mps)."""
    devices: int | None = None
    """Number of devices, or of processes on a CPU; None takes one, or under torchrun the number of its processes."""
    threads: int | None = None
    """CPU threads of the arithmetic; None takes PyTorch's default."""
    workers: int = 2
    """Threads that prepare windows ahead; 0 prepares them when needed."""
    save_every: float = 5.0
    """Epochs between saves."""
    eval_every: float = 5.0
    """Epochs between evaluations."""
    patience: int | None = None
    """Evaluations without a higher PSNR after which the run ends early; None runs all steps."""
    keep: int = 3
    """Number of numbered generators to keep; 0 keeps all."""
    tensorboard: bool = True
    """Write TensorBoard's event files, if it is installed."""
    comet: str | None = None
    """Comet project to report to; None does not report."""
    comet_name: str | None = None
    """Name of the run in Comet."""
    comet_entity: str | None = None
    """Comet workspace."""

    def __post_init__(self) -> None:
        _check_types(self)
        for name in ("devices", "threads", "patience"):
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
    """Refuse values that do not have the fields' types, since a configuration file may hold anything."""
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
    # `__post_init__` checks the values of a Literal and lists them.
    return get_origin(kind) is Literal or isinstance(value, kind)


def _check(name: str, value: Any, holds: bool, wanted: str) -> None:
    if not holds:
        raise OptionError(f"{name} is {value}: give {wanted}")
