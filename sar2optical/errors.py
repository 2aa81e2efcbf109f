"""Every failure that a user can cause, by name.

One root, so that a command catches one class and a caller can catch as finely as it likes. Each class
also inherits the matching builtin. Messages read: what, the value seen, the remedy.

::

    Sar2OpticalError
    ├── SceneError
    │   ├── SceneUnreadable        (OSError)      missing, empty, truncated, not a raster
    │   ├── BandNotFound           (LookupError)  no such index or polarisation
    │   ├── UnitsUnknown           (ValueError)   the values' unit cannot be told
    │   └── UnitsMismatch          (ValueError)   a unit that cannot become what the model expects
    ├── ModelError
    │   ├── ModelUnreadable        (OSError)      missing, corrupt, of another kind
    │   ├── CheckpointMismatch     (ValueError)   keys or shapes that are not a generator's
    │   └── SignatureError         (ValueError)   absent, of another version, malformed
    ├── EngineError
    │   ├── BackendNotInstalled    (ImportError)  the library that runs the file is absent
    │   ├── DeviceUnavailable      (RuntimeError) the device or precision asked for is not here
    │   └── InferenceFailed        (RuntimeError) the engine stopped, or returned what it should not
    │       ├── DeviceOutOfMemory  (MemoryError)  the GPU's memory does not hold the batch
    │       └── NotFinite          (ArithmeticError) it returned NaN or infinity
    ├── ExportError
    │   ├── ExportUnsupported      (ValueError)   source or target of a kind that is not exported
    │   └── ParityFailed           (RuntimeError) the exported file does not do what its source does
    ├── OutputError
    │   ├── OutputExists           (FileExistsError)
    │   ├── OtherRun               (ValueError)   strips of a run with other options are there
    │   └── OutputUnwritable       (OSError)      no folder, no permission, no space
    ├── DataError                  (ValueError)   pairs missing, of differing size, unreadable
    ├── TrainingDiverged           (RuntimeError) losses that are no numbers, a discriminator beyond doubt
    ├── Interrupted                (InterruptedError) stopped because somebody asked for it
    └── OptionError                (ValueError)   a value that no run can use
        └── OptionWithoutEffect    (ValueError)   one that would change nothing here
"""

from __future__ import annotations

from sar2optical._utils.addresses import redacted

__all__ = [
    "BackendNotInstalled",
    "BandNotFound",
    "CheckpointMismatch",
    "DataError",
    "DeviceOutOfMemory",
    "DeviceUnavailable",
    "EngineError",
    "ExportError",
    "ExportUnsupported",
    "InferenceFailed",
    "Interrupted",
    "ModelError",
    "ModelUnreadable",
    "NotFinite",
    "OptionError",
    "OptionWithoutEffect",
    "OtherRun",
    "OutputError",
    "OutputExists",
    "OutputUnwritable",
    "ParityFailed",
    "Sar2OpticalError",
    "SceneError",
    "SceneUnreadable",
    "SignatureError",
    "TrainingDiverged",
    "UnitsMismatch",
    "UnitsUnknown",
]


class Sar2OpticalError(Exception):
    """Root of every error that a user can cause.

    Messages quote addresses, and GDAL's words that do: what may be secret in them is left out.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class SceneError(Sar2OpticalError):
    """Something about the SAR raster."""


class SceneUnreadable(SceneError, OSError):
    """The scene is missing, empty, truncated or no raster that GDAL reads."""


class BandNotFound(SceneError, LookupError):
    """The scene has no band of that index or polarisation."""


class UnitsUnknown(SceneError, ValueError):
    """The unit of the scene's values cannot be told from the file."""


class UnitsMismatch(SceneError, ValueError):
    """The scene's unit cannot be brought to the one that the model was trained on."""


class ModelError(Sar2OpticalError):
    """Something about a model file."""


class ModelUnreadable(ModelError, OSError):
    """The model file is missing, corrupt or of another kind."""


class CheckpointMismatch(ModelError, ValueError):
    """The checkpoint's keys or shapes are not those of a generator."""


class SignatureError(ModelError, ValueError):
    """The model's signature is absent, malformed or of another version."""


class EngineError(Sar2OpticalError):
    """Something about running a model."""


class BackendNotInstalled(EngineError, ImportError):
    """The library that would run the model is not installed."""


class DeviceUnavailable(EngineError, RuntimeError):
    """The device, or the precision on it, is not available here."""


class InferenceFailed(EngineError, RuntimeError):
    """The engine stopped, or returned something that it should not."""


class DeviceOutOfMemory(InferenceFailed, MemoryError):
    """The device's memory does not hold the batch."""


class NotFinite(InferenceFailed, ArithmeticError):
    """The engine returned NaN or infinity."""


class ExportError(Sar2OpticalError):
    """Something about exporting."""


class ExportUnsupported(ExportError, ValueError):
    """The source or the target is of a kind that cannot be exported."""


class ParityFailed(ExportError, RuntimeError):
    """The exported model's output is too far from its source's."""


class OutputError(Sar2OpticalError):
    """Something about what is written."""


class OutputExists(OutputError, FileExistsError):
    """The output is there already."""


class OtherRun(OutputError, ValueError):
    """Where the strips go, there are those of a run with other options, another scene or another model."""


class OutputUnwritable(OutputError, OSError):
    """The output's folder is missing, closed to us or full."""


class DataError(Sar2OpticalError, ValueError):
    """Training pairs are missing, of differing size or unreadable."""


class TrainingDiverged(Sar2OpticalError, RuntimeError):
    """Training came to where going on makes no sense; what was saved before is good."""


class Interrupted(Sar2OpticalError, InterruptedError):
    """The run was asked to stop, and did; what it had finished is kept."""


class OptionError(Sar2OpticalError, ValueError):
    """An option's value is one that no run can use."""


class OptionWithoutEffect(OptionError, ValueError):
    """An option that would change nothing here; commands leave with exit status 2."""
