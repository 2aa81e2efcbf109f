"""Checkpoints: ours and bare state dicts, are loaded strictly; other files are refused in one line."""

from __future__ import annotations

import pickle
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from sar2optical.errors import CheckpointMismatch, ModelUnreadable, OutputUnwritable, SignatureError
from sar2optical.models.checkpoint import FORMAT, load_generator, read_arguments, read_tensors, save_generator
from sar2optical.models.patchgan import Discriminator
from sar2optical.models.unet import GeneratorArguments, UNetGenerator
from sar2optical.signature import Bound, ModelSignature, Stretch
from tests.conftest import BYTES
from tests.models.test_unet import filled, scaled

VARIANTS = [None, "nearest", "bilinear", "bicubic"]
HEAD = "head.0.weight"


def generator(upsampling=None, *, seed=0, **arguments):
    """A narrow generator whose every weight and statistic is random."""
    torch.manual_seed(seed)
    arguments = {"in_channels": 1, "base_channels": 2, **arguments}
    made = UNetGenerator(GeneratorArguments(upsampling=upsampling, **arguments))
    for key, value in made.state_dict().items():
        if key.endswith("running_var"):
            value.uniform_(0.5, 1.5)
        elif value.is_floating_point():
            value.normal_(0.1, 0.2)
        else:
            value.fill_(7)
    return made.eval()


@torch.inference_mode()
def image_of(made):
    x = torch.randn(1, made.arguments.in_channels, 256, 256, generator=torch.Generator().manual_seed(5))
    image = made(x)
    assert image.std() > 0.01  # the image is not flat
    return image


def same_state(one, other):
    one, other = one.state_dict(), other.state_dict()
    return list(one) == list(other) and all(torch.equal(one[key], other[key]) for key in one)


def refused(kind, path, *said, **options):
    """Loading fails with this kind of error: one line that begins with the path."""
    with pytest.raises(kind) as caught:
        load_generator(path, **options)
    message = str(caught.value)
    assert message.startswith(f"{path}: ")
    assert len(message.splitlines()) == 1
    for words in said:
        assert words in message
    return message


def saved(tmp_path, content, name="model.pth"):
    path = tmp_path / name
    torch.save(content, path)
    return path


def ours(tmp_path, **changes):
    """A checkpoint of ours with some entries replaced."""
    path = tmp_path / "ours.pth"
    save_generator(path, generator(), BYTES)
    return saved(tmp_path, {**torch.load(path, weights_only=True), **changes}, "changed.pth")


# Round trips


@pytest.mark.parametrize("upsampling", VARIANTS)
def test_a_saved_generator_is_loaded_bit_for_bit(tmp_path, upsampling):
    made = generator(upsampling)
    save_generator(tmp_path / "g.pth", made, BYTES)
    loaded, signature = load_generator(tmp_path / "g.pth")
    assert loaded.arguments == made.arguments
    assert signature == BYTES
    assert not loaded.training
    assert same_state(loaded, made)
    assert torch.equal(image_of(loaded), image_of(made))


@pytest.mark.parametrize("upsampling", [None, "bicubic"])
def test_half_storage_rounds_every_weight_to_float16_and_halves_the_file(tmp_path, upsampling):
    made = generator(upsampling, base_channels=4)
    save_generator(tmp_path / "whole.pth", made, BYTES)
    save_generator(tmp_path / "half.pth", made, BYTES, half=True)
    loaded, _ = load_generator(tmp_path / "half.pth")
    for key, value in made.state_dict().items():
        found = loaded.state_dict()[key]
        assert found.dtype == value.dtype
        expected = torch.from_numpy(value.numpy().astype("float16").astype(value.numpy().dtype))
        assert torch.equal(found, expected)
    whole, half = ((tmp_path / name).stat().st_size for name in ("whole.pth", "half.pth"))
    assert half < 0.6 * whole


def test_saving_changes_neither_the_generator_nor_its_mode(tmp_path):
    made, twin = generator().train(), generator()
    save_generator(tmp_path / "g.pth", made, BYTES, half=True)
    assert made.training
    assert same_state(made, twin)


def test_the_signature_takes_the_generators_channels(tmp_path):
    save_generator(tmp_path / "g.pth", generator(in_channels=3), BYTES)
    assert load_generator(tmp_path / "g.pth")[1] == replace(BYTES, channels=3)


def test_notes_are_plain_values(tmp_path):
    save_generator(tmp_path / "g.pth", generator(), BYTES, notes={"step": 300, "ssim": 0.25, "data": "volkov"})
    assert read_tensors(tmp_path / "g.pth")["notes"] == {"step": 300, "ssim": 0.25, "data": "volkov"}


def test_a_signature_given_replaces_the_stored_one(tmp_path):
    save_generator(tmp_path / "g.pth", generator(), BYTES)
    other = ModelSignature(name="other", bands=("VV",), unit="db", stretch=(Stretch(Bound(-25), Bound(0)),))
    assert load_generator(tmp_path / "g.pth", signature=other)[1] == other


def test_a_signature_that_does_not_fit_is_refused(tmp_path):
    save_generator(tmp_path / "g.pth", generator(), BYTES)
    refused(SignatureError, tmp_path / "g.pth", "3 channels", "the generator 1", signature=replace(BYTES, channels=3))


# Bare state dicts


@pytest.mark.parametrize("upsampling", VARIANTS)
def test_a_bare_state_dict_gives_the_image_of_the_module_it_came_from(tmp_path, upsampling):
    made = generator(upsampling, in_channels=3)
    loaded, signature = load_generator(saved(tmp_path, made.state_dict(), "pix2pix.pth"), upsampling=upsampling)
    assert loaded.arguments == made.arguments
    assert not loaded.training
    assert torch.equal(image_of(loaded), image_of(made))
    percentiles = (Stretch(Bound(1, True), Bound(99, True)),)
    assert signature == ModelSignature(
        name="pix2pix", bands=("VV",), unit="db", stretch=percentiles, window=256, channels=3
    )
    assert signature.replicated


@pytest.mark.parametrize(
    ("table", "upsampling"), [("generator.transpose", None), ("generator.upsampling", "nearest")]
)
def test_variant_and_width_follow_from_the_seeds_tensors(tmp_path, table, upsampling):
    narrow = scaled(table, 16)
    state = {key: filled(key, i, shape) for i, (key, shape) in enumerate(narrow.items())}
    expected = GeneratorArguments(in_channels=3, out_channels=3, base_channels=4, upsampling=upsampling)
    assert read_arguments(state) == expected
    loaded, _ = load_generator(saved(tmp_path, state))
    assert loaded.arguments == expected
    for key, value in loaded.state_dict().items():
        assert torch.equal(value, state[key])


def test_upsampling_modes_differ_in_no_tensor_so_nearest_is_assumed_and_another_can_be_given(tmp_path):
    made = generator("bilinear")
    path = saved(tmp_path, made.state_dict())
    assert load_generator(path)[0].arguments.upsampling == "nearest"
    assert torch.equal(image_of(load_generator(path, upsampling="bilinear")[0]), image_of(made))
    assert not torch.allclose(image_of(load_generator(path)[0]), image_of(made), atol=1e-3)


def test_our_checkpoints_contain_their_upsampling(tmp_path):
    save_generator(tmp_path / "g.pth", generator("bicubic"), BYTES)
    assert load_generator(tmp_path / "g.pth", upsampling="nearest")[0].arguments.upsampling == "bicubic"


# Other networks and contents


def test_missing_and_unknown_keys_are_named(tmp_path):
    state = generator().state_dict()
    del state["decoder.dec3.conv_block.0.weight"]
    state["decoder.dec9.strange"] = torch.zeros(1)
    refused(
        CheckpointMismatch, saved(tmp_path, state),
        "missing: decoder.dec3.conv_block.0.weight", "unknown: decoder.dec9.strange",
    )  # fmt: skip


def test_many_missing_keys_are_counted(tmp_path):
    state = {key: value for key, value in generator().state_dict().items() if "encoder.enc2" not in key}
    message = refused(CheckpointMismatch, saved(tmp_path, state), "encoder.enc2.conv_block.0.weight", "and 2 more")
    assert "unknown: none" in message


def test_keys_under_a_prefix_of_part_of_them_are_refused_and_shown(tmp_path):
    state = dict(generator().state_dict())
    state["module.head.0.weight"] = state.pop(HEAD)
    refused(
        CheckpointMismatch, saved(tmp_path, state), "expected keys encoder.enc1.conv_block.0.weight and head.0.weight"
    )


@pytest.mark.parametrize("wrong", [(3, 2, 3, 3, 1), (4, 4, 3, 3)], ids=str)
@pytest.mark.parametrize("key", [HEAD, "decoder.dec2.conv_block.0.weight"])
def test_a_tensor_of_another_shape_is_named_with_both_shapes(tmp_path, key, wrong):
    made = generator(out_channels=4 if wrong[0] == 4 else 3)
    state = made.state_dict()
    expected = tuple(state[key].shape)
    state[key] = torch.zeros(wrong)
    refused(CheckpointMismatch, saved(tmp_path, state), key, str(wrong), str(expected))


@pytest.mark.parametrize("shape", [(), (2,), (0, 1, 4, 4), (2, 0, 4, 4)], ids=str)
def test_a_first_layer_that_no_generator_has_is_refused(tmp_path, shape):
    state = generator().state_dict()
    state["encoder.enc1.conv_block.0.weight"] = torch.zeros(shape)
    refused(CheckpointMismatch, saved(tmp_path, state))


@pytest.mark.parametrize("kind", ["patch", "pixel"])
def test_a_discriminators_file_is_refused(tmp_path, kind):
    state = Discriminator(base_channels=2, kind=kind).state_dict()
    refused(CheckpointMismatch, saved(tmp_path, state), "not a generator", "model.model.0.conv_block.0.weight")


STRANGERS = {
    "a training state": {"model": {"w": torch.zeros(1)}, "epoch": 3},
    "an optimizer": torch.optim.Adam([torch.zeros(2)]).state_dict(),
    "nothing": {},
    "numbered tensors": {0: torch.zeros(1), 1: torch.zeros(1)},
    "numbers": {"encoder.enc1.conv_block.0.weight": 1.0},
    "numbered numbers": {0: 1.0},
}


@pytest.mark.parametrize("content", STRANGERS.values(), ids=STRANGERS.keys())
def test_a_dict_of_other_things_is_refused(tmp_path, content):
    refused(CheckpointMismatch, saved(tmp_path, content))


@pytest.mark.parametrize(
    "content", [[torch.zeros(2)], torch.zeros(2), "text", None], ids=["list", "tensor", "str", "None"]
)
def test_content_other_than_a_dict_is_refused(tmp_path, content):
    refused(ModelUnreadable, saved(tmp_path, content), type(content).__name__, "state_dict()")


@pytest.mark.parametrize("part", ["arguments", "signature", "state_dict"])
def test_a_checkpoint_of_ours_with_a_part_missing_names_it(tmp_path, part):
    content = torch.load(ours(tmp_path), weights_only=True)
    del content[part]
    refused(ModelUnreadable, saved(tmp_path, content), part)


WRONG_PARTS = {
    "arguments of another release": {"arguments": {"depth": 9}},
    "arguments out of range": {"arguments": {"base_channels": 0}},
    "arguments that are none": {"arguments": 3},
    "a signature of another version": {"signature": BYTES.to_json().replace('"version": 1', '"version": 2')},
    "a signature that is no JSON": {"signature": "{"},
    "a signature that is none": {"signature": None},
    "another width than the weights'": {"arguments": {"in_channels": 1, "base_channels": 4}},
    "weights that are no tensors": {"state_dict": dict.fromkeys(generator().state_dict(), 1.0)},
    "weights that are no dict": {"state_dict": 3},
}


@pytest.mark.parametrize("parts", WRONG_PARTS.values(), ids=WRONG_PARTS.keys())
def test_a_checkpoint_of_ours_with_a_wrong_part_is_refused(tmp_path, parts):
    refused((ModelUnreadable, CheckpointMismatch, SignatureError), ours(tmp_path, **parts))


def test_a_newer_signature_is_refused_with_both_versions(tmp_path):
    text = BYTES.to_json().replace('"version": 1', '"version": 3')
    refused(SignatureError, ours(tmp_path, signature=text), "version 3", "reads 1")


# Files that are not checkpoints


class Trap:
    """Object that creates a folder when unpickled, as an attacker's file could."""

    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return Path.mkdir, (Path(self.marker),)


@pytest.mark.parametrize("container", ["torch", "pickle"])
@pytest.mark.parametrize("where", ["alone", "in a state dict", "in a checkpoint of ours"])
def test_code_in_a_file_is_refused_and_never_run(tmp_path, container, where):
    marker = tmp_path / "executed"
    content = {
        "alone": Trap(marker),
        "in a state dict": {**generator().state_dict(), "extra": Trap(marker)},
        "in a checkpoint of ours": {"format": FORMAT, "notes": Trap(marker)},
    }[where]
    path = tmp_path / "trap.pth"
    if container == "torch":
        torch.save(content, path)
    else:
        path.write_bytes(pickle.dumps(content))
    refused(ModelUnreadable, path, "objects other than tensors")
    assert not marker.exists()
    if container == "torch":
        torch.load(path, weights_only=False)
    else:
        pickle.loads(path.read_bytes())
    assert marker.exists()  # unpickling does create it


def test_a_whole_pickled_model_is_refused_with_what_to_save_instead(tmp_path):
    refused(ModelUnreadable, saved(tmp_path, generator()), "state_dict()")


@pytest.mark.parametrize("kept", [0.001, 0.3, 0.9, 0.999])
def test_a_truncated_file_is_refused(tmp_path, kept):
    path = tmp_path / "g.pth"
    save_generator(path, generator(), BYTES)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * kept)])
    refused(ModelUnreadable, path, "download the file again")


DISGUISES = {
    "empty": b"",
    "a page of HTML": b"<!DOCTYPE html>\n<html><body>404</body></html>\n",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 218\n",
    "a line of text": b"weights\n",
    "zeros": bytes(4096),
    "an image": b"\x89PNG\r\n\x1a\n" + bytes(64),
    "a zip of something else": b"PK\x05\x06" + bytes(18),
}


@pytest.mark.parametrize("content", DISGUISES.values(), ids=DISGUISES.keys())
def test_a_file_of_another_format_is_refused(tmp_path, content):
    path = tmp_path / "g.pth"
    path.write_bytes(content)
    message = refused(ModelUnreadable, path)
    # The remedy to save a state_dict() would not help after a failed download.
    assert "download the file again" in message


def test_a_missing_file_is_refused(tmp_path):
    refused(ModelUnreadable, tmp_path / "no.pth", "no such file")


def test_a_folder_is_refused(tmp_path):
    refused(ModelUnreadable, tmp_path, "is a folder")


def test_a_path_through_a_file_is_no_file(tmp_path):
    (tmp_path / "a.pth").touch()
    message = refused(ModelUnreadable, tmp_path / "a.pth" / "b.pth")
    assert "download" not in message


# Writing


def test_saving_replaces_the_old_file_and_leaves_nothing_else(tmp_path):
    path = tmp_path / "g.pth"
    save_generator(path, generator(seed=1), BYTES)
    save_generator(path, generator(seed=2), BYTES)
    assert same_state(load_generator(path)[0], generator(seed=2))
    assert [p.name for p in tmp_path.iterdir()] == ["g.pth"]


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path):
    path = tmp_path / "g.pth"
    save_generator(path, generator(), BYTES)
    old = path.read_bytes()
    code = (
        "import resource\n"
        "from pathlib import Path\n"
        "from sar2optical.errors import OutputUnwritable\n"
        "from sar2optical.models.checkpoint import save_generator\n"
        "from sar2optical.models.unet import GeneratorArguments, UNetGenerator\n"
        "from sar2optical.signature import ModelSignature\n"
        "wide = UNetGenerator(GeneratorArguments(in_channels=1, base_channels=8))\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))\n"
        "try:\n"
        f"    save_generator(Path({str(path)!r}), wide, ModelSignature(name='wide'))\n"
        "except OutputUnwritable as error:\n"
        "    print(str(error))\n"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120, check=False)
    assert result.returncode == 0, result.stderr
    assert result.stdout.startswith(f"{path}: cannot be written")
    assert len(result.stdout.splitlines()) == 1
    assert path.read_bytes() == old
    assert [p.name for p in tmp_path.iterdir()] == ["g.pth"]


@pytest.mark.parametrize("name", ["missing/g.pth", "file/g.pth", "folder"])
def test_an_unwritable_folder_is_named(tmp_path, name):
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    path = tmp_path / name
    with pytest.raises(OutputUnwritable) as caught:
        save_generator(path, generator(), BYTES)
    assert str(caught.value).startswith(f"{path}: cannot be written")
    assert len(str(caught.value).splitlines()) == 1
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "folder"]


def test_a_generator_of_other_colours_than_three_is_refused(tmp_path):
    refused(CheckpointMismatch, saved(tmp_path, generator(out_channels=4).state_dict()), "RGB")


def test_a_bare_state_dict_of_two_bands_does_not_say_which(tmp_path):
    refused(SignatureError, saved(tmp_path, generator(in_channels=2).state_dict()), "2 channels")


def test_sparse_weights_are_refused(tmp_path):
    state = generator().state_dict()
    state[HEAD] = state[HEAD].to_sparse()
    refused(CheckpointMismatch, saved(tmp_path, state), HEAD)
