"""The tree of errors: what a caller may catch."""

from __future__ import annotations

import inspect
import pickle
import re

import pytest

from sar2optical import errors
from sar2optical.errors import Sar2OpticalError

BUILTINS = {
    "Interrupted": InterruptedError,
    "OtherRun": ValueError,
    "SceneUnreadable": OSError,
    "BandNotFound": LookupError,
    "UnitsUnknown": ValueError,
    "UnitsMismatch": ValueError,
    "ModelUnreadable": OSError,
    "CheckpointMismatch": ValueError,
    "SignatureError": ValueError,
    "BackendNotInstalled": ImportError,
    "DeviceUnavailable": RuntimeError,
    "InferenceFailed": RuntimeError,
    "ExportUnsupported": ValueError,
    "ParityFailed": RuntimeError,
    "OutputExists": FileExistsError,
    "OutputUnwritable": OSError,
    "DataError": ValueError,
    "DeviceOutOfMemory": MemoryError,
    "NotFinite": ArithmeticError,
    "TrainingDiverged": RuntimeError,
    "OptionError": ValueError,
    "OptionWithoutEffect": ValueError,
}
CLASSES = {
    name: value
    for name, value in vars(errors).items()
    if inspect.isclass(value) and value.__module__ == errors.__name__ and not name.startswith("_")
}


def drawn():
    """Read the docstring's tree: each name with its parent's and, where it is given, the builtin's."""
    tree, path = {}, ["Sar2OpticalError"]
    for line in (errors.__doc__ or "").splitlines():
        found = re.match(r"^ {4}([│ ]*)[├└]── (\w+)(?: +\((\w+)\))?", line)
        if found:
            depth = len(found[1]) // 4 + 1
            tree[found[2]] = (path[depth - 1], found[3])
            path[depth:] = [found[2]]
    return tree


def test_every_class_is_public():
    assert errors.__all__ == sorted(CLASSES)


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_one_root_catches_every_error(name):
    assert issubclass(CLASSES[name], Sar2OpticalError)


@pytest.mark.parametrize(("name", "builtin"), BUILTINS.items())
def test_an_error_is_also_the_builtin_that_python_would_raise(name, builtin):
    assert issubclass(CLASSES[name], builtin)


def test_every_error_that_is_raised_has_its_builtin():
    groups = {base for cls in CLASSES.values() for base in cls.__bases__}
    leaves = {name for name, cls in CLASSES.items() if cls not in groups}
    assert leaves <= set(BUILTINS)
    assert set(BUILTINS) == {name for name, cls in CLASSES.items() if len(cls.__bases__) > 1}


def test_the_tree_in_the_docstring_is_the_tree():
    actual = {}
    for name, cls in CLASSES.items():
        if cls is not Sar2OpticalError:
            parent, *builtin = cls.__bases__
            actual[name] = (parent.__name__, builtin[0].__name__ if builtin else None)
    written = {
        name: (parent, builtin or ("FileExistsError" if name == "OutputExists" else None))
        for name, (parent, builtin) in drawn().items()
    }
    assert written == actual


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_a_message_reads_as_it_was_written(name):
    text = "out.tif: is there already ('x'): give --overwrite"
    assert str(CLASSES[name](text)) == text


@pytest.mark.parametrize("name", sorted(CLASSES))
def test_an_error_can_be_pickled(name):
    back = pickle.loads(pickle.dumps(CLASSES[name]("scene.tif: too small")))
    assert type(back) is CLASSES[name]
    assert str(back) == "scene.tif: too small"
