"""FID and KID: against their formulas, and with feature extractors from files."""

from __future__ import annotations

import warnings

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto, helper

from sar2optical.data.pairs import Chips
from sar2optical.errors import ModelUnreadable
from sar2optical.evaluation import report
from sar2optical.evaluation.evaluate import Sample, evaluate
from sar2optical.evaluation.fid import distances, open_features


class Moments(torch.nn.Module):
    """Per-channel means and standard deviations: (N, 3, H, W) -> (N, 6)."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute."""
        x = images.float()
        mean = x.mean(dim=(2, 3), keepdim=True)
        return torch.cat((mean[:, :, 0, 0], ((x - mean) ** 2).mean(dim=(2, 3)).sqrt()), 1)


def torchscript(path, module):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(module), str(path))
    return path


@pytest.fixture
def moments_torchscript(tmp_path):
    return torchscript(tmp_path / "moments.ts", Moments())


def onnx_file(path, nodes, constants, *, of=TensorProto.UINT8):
    graph = helper.make_graph(
        nodes,
        "features",
        [helper.make_tensor_value_info("images", of, ["N", 3, "H", "W"])],
        [helper.make_tensor_value_info("features", TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.array(value), name) for name, value in constants.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


@pytest.fixture
def moments_onnx(tmp_path):
    nodes = [
        helper.make_node("Cast", ["images"], ["x"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["x", "space"], ["mean"], keepdims=1),
        helper.make_node("Sub", ["x", "mean"], ["centred"]),
        helper.make_node("Mul", ["centred", "centred"], ["squares"]),
        helper.make_node("ReduceMean", ["squares", "space"], ["variance"], keepdims=1),
        helper.make_node("Sqrt", ["variance"], ["deviation"]),
        helper.make_node("Concat", ["mean", "deviation"], ["both"], axis=1),
        helper.make_node("Squeeze", ["both", "space"], ["features"]),
    ]
    return onnx_file(tmp_path / "moments.onnx", nodes, {"space": [2, 3]})


def images(count, seed=0, *, shift=0):
    rng = np.random.default_rng(seed)
    low = rng.integers(0, 60, (count, 3, 1, 1))
    return (low + rng.integers(0, 100, (count, 3, 16, 16)) + shift).astype(np.uint8)


def frechet(a, b):
    """Heusel et al. 2017, equation 6: the trace of the root is the sum of the roots of the product's eigenvalues."""
    ca, cb = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    roots = np.sqrt(np.linalg.eigvals(ca @ cb).astype(complex)).real
    return np.sum((a.mean(0) - b.mean(0)) ** 2) + np.trace(ca) + np.trace(cb) - 2 * roots.sum()


def kernel_distance(a, b):
    """Binkowski et al. 2018, equation 4: unbiased, with the kernel (x . y / d + 1) ** 3."""
    n, width = a.shape

    def kernel(x, y):
        return (x @ y.T / width + 1) ** 3

    within = sum((kernel(x, x).sum() - np.trace(kernel(x, x))) / (n * (n - 1)) for x in (a, b))
    return within - 2 * kernel(a, b).mean()


def test_fid_is_the_frechet_distance():
    rng = np.random.default_rng(0)
    a, b = rng.normal(0, 1, (50, 6)), rng.normal(0.5, 2, (50, 6))
    found = distances(a, b)
    assert found.fid == pytest.approx(frechet(a, b), rel=1e-6)
    assert (found.images, found.features, found.note) == (50, 6, "")


def test_a_shift_alone_is_its_square():
    a = np.random.default_rng(1).normal(size=(40, 3))
    assert distances(a, a + np.array([3, 0, 4])).fid == pytest.approx(25, rel=1e-6)


def test_a_set_is_at_no_distance_from_itself():
    a = np.random.default_rng(2).normal(size=(40, 5))
    assert distances(a, a).fid == pytest.approx(0, abs=1e-6)
    assert abs(distances(a, a).kid) < 0.1 * distances(a, a + 1).kid


def test_kid_is_the_mean_discrepancy_and_needs_no_subsets_of_few_images():
    rng = np.random.default_rng(3)
    a, b = rng.normal(0, 1, (30, 6)), rng.normal(0.5, 1.2, (30, 6))
    assert distances(a, b).kid == pytest.approx(kernel_distance(a, b), rel=1e-5)


def test_distances_are_the_same_again_and_leave_the_random_state_alone():
    rng = np.random.default_rng(4)
    a, b = rng.normal(0, 1, (1100, 2)), rng.normal(0.1, 1, (1100, 2))  # more than a subset
    state = torch.get_rng_state()
    found = distances(a, b)
    assert distances(a, b) == found
    assert torch.equal(torch.get_rng_state(), state)
    assert found.kid == pytest.approx(kernel_distance(a, b), abs=0.01)


def test_too_few_images_are_noted():
    rng = np.random.default_rng(5)
    one, few = rng.normal(size=(1, 4)), rng.normal(size=(4, 4))
    assert np.isnan(distances(one, one).fid)
    assert np.isnan(distances(one, one).kid)
    assert "two or more" in distances(one, one).note
    assert distances(few, few + 1).note.startswith("4 images for 4 features: FID is biased")
    assert np.isfinite(distances(few, few + 1).fid)


def test_both_kinds_of_file_give_the_features(moments_torchscript, moments_onnx):
    given = images(11)
    x = given.astype(np.float64)
    expected = np.concatenate((x.mean(axis=(2, 3)), x.std(axis=(2, 3))), axis=1)
    for path in (moments_torchscript, moments_onnx):
        assert open_features(path)(given) == pytest.approx(expected, rel=1e-5)


def test_an_evaluation_has_the_distances_of_rounded_predictions(moments_torchscript, moments_onnx):
    truths, fakes = images(9), images(9, seed=1, shift=20)
    by_level = dict(enumerate(fakes))
    samples = [Sample(f"{k}", "", Chips(np.full((1, 16, 16), k, np.uint8), truth)) for k, truth in enumerate(truths)]

    def predict(sar):
        return by_level[int(sar[0, 0, 0])] - 0.3  # a fraction that rounding takes away, and cutting does not

    found = [
        evaluate({"a": predict}, samples, window=16, features=open_features(path)).results[0].distances
        for path in (moments_torchscript, moments_onnx)
    ]
    features = open_features(moments_onnx)
    expected = frechet(features(truths), features(fakes))
    assert expected > 100
    assert [one.fid for one in found] == pytest.approx([expected] * 2, rel=1e-4)
    assert found[0].kid == pytest.approx(found[1].kid, rel=1e-4)
    evaluation = evaluate({"a": predict}, samples, window=16, features=features)
    assert f"{expected:.1f}"[:-1] in report.text(evaluation)
    assert "FID, KID: 9 windows, 6 features" in report.text(evaluation)


class Flat(torch.nn.Module):
    """Extractor whose output is not one row of numbers per image."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.kind = kind

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        """Compute."""
        if self.kind == "4-D":
            return images.float()
        if self.kind == "one row":
            return images.float().mean(dim=(0, 2, 3)).unsqueeze(0)
        return images.float().mean(dim=(2, 3)) / 0.0


@pytest.mark.parametrize(
    ("kind", "said"),
    [("4-D", "output has shape \\(2, 3, 16, 16\\)"), ("one row", "1 rows for 2"), ("infinite", "not finite")],
)
def test_an_output_that_is_not_features_is_refused(tmp_path, kind, said):
    features = open_features(torchscript(tmp_path / "flat.pt", Flat(kind)))
    with pytest.raises(ModelUnreadable, match=said):
        features(images(2) + np.uint8(1))


def test_files_that_are_not_extractors_are_refused(tmp_path, moments_onnx):
    (tmp_path / "text.ts").write_text("hello")
    (tmp_path / "text.onnx").write_text("hello")
    torch.save({"weights": torch.zeros(3)}, tmp_path / "tensors.pt")
    for name, said in [
        ("text.ts", "not a TorchScript file"),
        ("tensors.pt", "not a TorchScript file"),
        ("text.onnx", "not an ONNX model"),
        ("missing.ts", "no such file"),
        ("weights.pkl", "unknown type"),
    ]:
        with pytest.raises(ModelUnreadable, match=said):
            open_features(tmp_path / name)
    with pytest.raises(ModelUnreadable, match="does not run on uint8"):
        open_features(moments_onnx)(images(2)[:, :1])


def test_an_extractor_of_floats_is_refused_with_the_input_it_should_take(tmp_path):
    nodes = [helper.make_node("ReduceMean", ["images", "space"], ["features"], keepdims=0)]
    path = onnx_file(tmp_path / "floats.onnx", nodes, {"space": [2, 3]}, of=TensorProto.FLOAT)
    with pytest.raises(ModelUnreadable, match=r"does not run on uint8 \(2, 3, 16, 16\)"):
        open_features(path)(images(2))
