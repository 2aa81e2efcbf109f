"""Errors that a user can cause: one class per kind of failure, all with one root.

A command catches the root; a caller catches the classes that it needs. Each class also inherits the matching builtin.
A message says what failed, the value seen, and the remedy.

::

    Sar2OpticalError
    ├── SceneError
    │   ├── SceneUnreadable        (OSError)      missing, empty, truncated, not a raster
    │   ├── BandNotFound           (LookupError)  no such index or polarisation
    │   ├── UnitsUnknown           (ValueError)   the values' unit is unknown or ambiguous
    │   └── UnitsMismatch          (ValueError)   no conversion to the unit that the model expects
    ├── ModelError
    │   ├── ModelUnreadable        (OSError)      missing, corrupt, of another kind
    │   ├── CheckpointMismatch     (ValueError)   keys or shapes that are not a generator's
    │   └── SignatureError         (ValueError)   absent, of another version, malformed
    ├── EngineError
    │   ├── BackendNotInstalled    (ImportError)  the library that runs the file is missing
    │   ├── DeviceUnavailable      (RuntimeError) the requested device or precision is not available
    │   └── InferenceFailed        (RuntimeError) the engine stopped, or returned invalid values
    │       ├── DeviceOutOfMemory  (MemoryError)  the batch does not fit the GPU's memory
    │       └── NotFinite          (ArithmeticError) the engine returned NaN or infinity
    ├── ExportError
    │   ├── ExportUnsupported      (ValueError)   source or target of an unsupported kind
    │   └── ParityFailed           (RuntimeError) output differs from that of the source
    ├── OutputError
    │   ├── OutputExists           (FileExistsError)
    │   ├── OtherRun               (ValueError)   the run folder contains strips of another run
    │   └── OutputUnwritable       (OSError)      no folder, no permission, no space
    ├── DataError                  (ValueError)   pairs missing, of differing size, unreadable
    ├── TrainingDiverged           (RuntimeError) losses became NaN, or the discriminator won
    ├── Interrupted                (InterruptedError) stopped on request
    └── OptionError                (ValueError)   invalid value of an option
        └── OptionWithoutEffect    (ValueError)   an option that has no effect here
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
    """Root of all errors that a user can cause.

    Addresses in messages are redacted: they may contain secrets.
    """

    def __init__(self, *args: object) -> None:
        super().__init__(*(redacted(arg) if isinstance(arg, str) else arg for arg in args))


class SceneError(Sar2OpticalError):
    """Error of the SAR scene."""


class SceneUnreadable(SceneError, OSError):
    """The scene is missing, empty, truncated, or not a raster that GDAL reads."""


class BandNotFound(SceneError, LookupError):
    """The scene has no band of that index or polarisation."""


class UnitsUnknown(SceneError, ValueError):
    """The unit of the scene's values is unknown or ambiguous."""


class UnitsMismatch(SceneError, ValueError):
    """The scene's unit cannot be converted to the unit that the model expects."""


class ModelError(Sar2OpticalError):
    """Error of a model file."""


class ModelUnreadable(ModelError, OSError):
    """The model file is missing, corrupt or of another kind."""


class CheckpointMismatch(ModelError, ValueError):
    """The checkpoint's keys or shapes are not those of a generator."""


class SignatureError(ModelError, ValueError):
    """The model's signature is absent, malformed or of another version."""


class EngineError(Sar2OpticalError):
    """Error of running a model."""


class BackendNotInstalled(EngineError, ImportError):
    """The library that runs the model is not installed."""


class DeviceUnavailable(EngineError, RuntimeError):
    """The device, or the precision on it, is not available here."""


class InferenceFailed(EngineError, RuntimeError):
    """The engine stopped, or returned invalid values."""


class DeviceOutOfMemory(InferenceFailed, MemoryError):
    """The batch does not fit the device's memory."""


class NotFinite(InferenceFailed, ArithmeticError):
    """The engine returned NaN or infinity."""


class ExportError(Sar2OpticalError):
    """Error of an export."""


class ExportUnsupported(ExportError, ValueError):
    """The source or the target is of a kind that cannot be exported."""


class ParityFailed(ExportError, RuntimeError):
    """The output of the exported model differs too much from that of its source."""


class OutputError(Sar2OpticalError):
    """Error of an output."""


class OutputExists(OutputError, FileExistsError):
    """The output exists already."""


class OtherRun(OutputError, ValueError):
    """The run folder contains strips of a run with other options, another scene or another model."""


class OutputUnwritable(OutputError, OSError):
    """The output's folder is missing, not writable or full."""


class DataError(Sar2OpticalError, ValueError):
    """Training pairs are missing, of differing size or unreadable."""


class TrainingDiverged(Sar2OpticalError, RuntimeError):
    """Training diverged; checkpoints that were saved before are valid."""


class Interrupted(Sar2OpticalError, InterruptedError):
    """The run stopped on request; finished work is kept."""


class OptionError(Sar2OpticalError, ValueError):
    """The value of an option is invalid."""


class OptionWithoutEffect(OptionError, ValueError):
    """An option has no effect here; commands exit with status 2."""
