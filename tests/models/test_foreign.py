"""Checkpoints of other programs: generators in entries and under prefixes, and files of other formats."""

from __future__ import annotations

import argparse
import json
import logging
import struct
import warnings

import pytest
import torch
from torch import nn

from sar2optical.errors import CheckpointMismatch, ModelUnreadable
from sar2optical.models.checkpoint import FORMAT, bare_state_dict, load_generator, save_generator
from sar2optical.models.patchgan import Discriminator
from tests.conftest import BYTES
from tests.models.test_checkpoint import generator, refused, same_state, saved

MADE = generator(seed=3)
STATE = MADE.state_dict()


def under(prefix, state=STATE):
    return {prefix + key: value for key, value in state.items()}


OTHER = {"conv.weight": torch.zeros(4, 4)}
DISCRIMINATOR = under("discriminator.", Discriminator(2, 2).state_dict())
FILES = {
    "DataParallel": under("module."),
    "torch.compile": under("_orig_mod."),
    "both": under("module._orig_mod."),
    "both, the other way": under("_orig_mod.module."),
    "twice": under("module.module."),
    "state_dict": {"state_dict": STATE, "epoch": 3},
    "model": {"model": under("module."), "optimizer": torch.optim.Adam([torch.zeros(2)]).state_dict(), "epoch": 3},
    "netG": {"netG": STATE, "netD": OTHER},
    "generator": {"generator": STATE, "discriminator": Discriminator(2, 2).state_dict()},
    "nested twice": {"checkpoint": {"generator": {"state_dict": under("module.")}}},
    "Lightning": {"state_dict": {**under("generator."), **DISCRIMINATOR}, "pytorch-lightning_version": "2.4.0"},
    "AveragedModel": {"n_averaged": torch.tensor(7), **under("module.")},
    "params_ema": {"params": generator(seed=1).state_dict(), "params_ema": STATE},
    "ema beside the generator": {"G": generator(seed=1).state_dict(), "G_ema": STATE, "D": OTHER},
    "ema in one dict": {**under("generator.", generator(seed=1).state_dict()), **under("generator_ema.")},
}


@pytest.mark.parametrize("content", FILES.values(), ids=FILES.keys())
def test_weights_are_found_at_any_level_and_this_is_logged(tmp_path, content, caplog):
    caplog.set_level(logging.INFO)
    path = saved(tmp_path, content)
    loaded, _ = load_generator(path)
    assert same_state(loaded, MADE)
    (said,) = [message for message in caplog.messages if str(path) in message]
    assert "weights found under " in said


def test_ignored_entries_are_counted(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load_generator(saved(tmp_path, FILES["Lightning"]))
    assert f"entry state_dict, prefix generator. ({len(DISCRIMINATOR)} other entries ignored)" in caplog.text


def test_a_bare_state_dict_is_loaded_without_a_log_message(tmp_path, caplog):
    caplog.set_level(logging.INFO)
    load_generator(saved(tmp_path, STATE))
    assert not caplog.messages


def test_two_generators_are_refused(tmp_path):
    content = {"day": STATE, "night": generator(seed=1).state_dict()}
    refused(
        CheckpointMismatch, saved(tmp_path, content), "holds 2 generators (entry day, entry night)", "state_dict()"
    )
    content = {**under("a_ema."), **under("b_ema.")}
    refused(CheckpointMismatch, saved(tmp_path, content), "holds 2 generators (prefix a_ema., prefix b_ema.)")


def test_a_key_missing_under_a_prefix_is_still_named(tmp_path):
    state = under("module.")
    del state["module.encoder.enc3.conv_block.0.weight"]
    refused(CheckpointMismatch, saved(tmp_path, {"netG": state}), "missing: encoder.enc3.conv_block.0.weight")


def test_our_own_checkpoint_of_a_compiled_generator_is_read(tmp_path):
    path = tmp_path / "ours.pth"
    save_generator(path, MADE, BYTES)
    content = torch.load(path, weights_only=True)
    assert content["format"] == FORMAT
    content["state_dict"] = under("_orig_mod.", content["state_dict"])
    loaded, signature = load_generator(saved(tmp_path, content, "changed.pth"))
    assert same_state(loaded, MADE)
    assert signature == BYTES


def test_a_discriminators_prefix_is_removed_too(tmp_path):
    state = Discriminator(2, 2).state_dict()
    assert list(bare_state_dict(saved(tmp_path, under("module.", state)))) == list(state)


# Generators of another structure


class SkipBlock(nn.Module):
    """A block of pytorch-CycleGAN-and-pix2pix's U-Net, with its names: UnetSkipConnectionBlock of networks.py."""

    def __init__(self, outer, inner, given=None, submodule=None, *, outermost=False):
        super().__init__()
        down = nn.Conv2d(given or outer, inner, 4, 2, 1, bias=False)
        lower = inner if submodule is None else 2 * inner
        up = nn.ConvTranspose2d(lower, outer, 4, 2, 1, bias=outermost)
        if outermost:
            layers = [down, submodule, nn.ReLU(), up, nn.Tanh()]
        elif submodule is None:
            layers = [nn.LeakyReLU(0.2), down, nn.ReLU(), up, nn.BatchNorm2d(outer)]
        else:
            layers = [
                nn.LeakyReLU(0.2), down, nn.BatchNorm2d(inner), submodule, nn.ReLU(), up, nn.BatchNorm2d(outer)
            ]  # fmt: skip
        self.model = nn.Sequential(*layers)


class Unet(nn.Module):
    def __init__(self, depth, channels=1, width=2):
        super().__init__()
        block = SkipBlock(8 * width, 8 * width)
        for _ in range(depth - 5):
            block = SkipBlock(8 * width, 8 * width, submodule=block)
        for k in (4, 2, 1):
            block = SkipBlock(k * width, 2 * k * width, submodule=block)
        self.model = SkipBlock(3, width, channels, block, outermost=True)


class Resnet(nn.Module):
    def __init__(self, blocks):
        super().__init__()
        block = lambda: nn.ModuleDict({"conv_block": nn.Sequential(nn.Identity(), nn.Conv2d(2, 2, 3))})  # noqa: E731
        self.model = nn.Sequential(nn.ReflectionPad2d(3), nn.Conv2d(1, 2, 7), *(block() for _ in range(blocks)))


@pytest.mark.parametrize(
    ("network", "name"),
    [
        (Unet(8), 'the U-Net "unet_256"'),
        (Unet(7), 'the U-Net "unet_128"'),
        (nn.DataParallel(Unet(8)), 'the U-Net "unet_256"'),
        (Resnet(9), 'the ResNet "resnet_9blocks"'),
        (Resnet(6), 'the ResNet "resnet_6blocks"'),
    ],
)
def test_generators_of_the_common_pix2pix_program_are_identified_with_a_remedy(tmp_path, network, name):
    said = (name, "ngf 2, 1 input channels", "torch.onnx.export", "--signature FILE")
    refused(CheckpointMismatch, saved(tmp_path, network.state_dict()), *said)
    refused(CheckpointMismatch, saved(tmp_path, {"netG": network.state_dict()}, "nested.pth"), *said)


# Files that are not checkpoints


class Doubled(nn.Module):
    def forward(self, x):
        return 2 * x


def test_torchscript_is_identified(tmp_path):
    path = tmp_path / "traced.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of tracing
        torch.jit.trace(MADE, torch.zeros(1, 1, 256, 256)).save(str(path))
        refused(ModelUnreadable, path, "a TorchScript file: save its state_dict()")
        torch.save(torch.jit.load(str(path)).state_dict(), tmp_path / "advised.pth")  # the remedy works
    assert same_state(load_generator(tmp_path / "advised.pth")[0], MADE)


def test_a_torch_export_program_is_identified(tmp_path):
    path = tmp_path / "program.pt"
    with path.open("wb") as file:
        torch.export.save(torch.export.export(Doubled(), (torch.zeros(2),)), file)
    refused(ModelUnreadable, path, "a torch.export program: save its state_dict")


def test_a_pickle_of_a_whole_model_is_identified_with_its_class(tmp_path):
    refused(
        ModelUnreadable,
        saved(tmp_path, MADE),
        "a pickle of a whole model (sar2optical",
        "UNetGenerator",
        "state_dict()",
    )
    torch.save(Unet(8), tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    refused(
        ModelUnreadable, tmp_path / "old.pth", "a pickle of a whole model (", "test_foreign.Unet)", "state_dict()"
    )
    nested = {"model": nn.Sequential(nn.Conv2d(1, 1, 1)), "epoch": 3}
    refused(
        ModelUnreadable,
        saved(tmp_path, nested, "nested.pth"),
        "a pickle of a whole model (torch.nn.modules.",
        "state_dict()",
    )


def test_settings_in_a_checkpoint_are_not_a_whole_model(tmp_path):
    content = {"args": argparse.Namespace(lr=1), "state_dict": STATE}
    message = refused(ModelUnreadable, saved(tmp_path, content), "objects other than tensors", "state_dict()")
    assert "whole model" not in message


def test_safetensors_and_hdf5_are_identified(tmp_path):
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    (tmp_path / "g.pth").write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refused(ModelUnreadable, tmp_path / "g.pth", "a safetensors file")
    (tmp_path / "h.pth").write_bytes(b"\x89HDF\r\n\x1a\n" + bytes(64))
    refused(ModelUnreadable, tmp_path / "h.pth", "an HDF5 file")
