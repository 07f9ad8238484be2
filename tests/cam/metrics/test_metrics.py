"""Tests of torchext.metrics on a network whose class depends on a known patch."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import torchext
from tests.models import PatchDetector, classifier
from torchext import metrics

METRICS = (metrics.average_drop, metrics.average_increase, metrics.deletion_curve, metrics.insertion_curve)


def known() -> tuple[nn.Module, Tensor, Tensor, Tensor]:
    """The network, images with a bright patch, a map of the patch, and a map of everything else."""
    images = torch.rand(3, 1, 16, 16) * 0.2
    images[:, :, PatchDetector.ROWS, PatchDetector.COLUMNS] = 3.0
    patch = torch.zeros(3, 16, 16)
    patch[:, PatchDetector.ROWS, PatchDetector.COLUMNS] = 1.0
    return PatchDetector().eval(), images, patch, 1 - patch


class _Outputs(nn.Module):
    """The model, with a function applied to its output."""

    def __init__(self, model: nn.Module, change: Any) -> None:
        super().__init__()
        self.model, self.change = model, change
        self.eval()

    def forward(self, x: Tensor) -> Tensor:
        return self.change(self.model(x))


def test_cam_finds_the_patch() -> None:
    model, images, patch, _ = known()
    torch.testing.assert_close(torchext.CAM(model, "mask", method="hirescam")(images, 1), patch)


def test_drop_and_increase_distinguish_the_patch_from_the_rest() -> None:
    model, images, patch, rest = known()
    assert float(metrics.average_drop(model, images, patch)) == 0.0
    assert float(metrics.average_increase(model, images, patch)) == 1.0
    assert float(metrics.average_increase(model, images, rest)) == 0.0
    with torch.no_grad():
        before = model(images).softmax(1)[:, 1]
        after = model(images * rest[:, None]).softmax(1)[:, 1]
    torch.testing.assert_close(metrics.average_drop(model, images, rest, 1), ((before - after) / before).mean())
    for one_each in ([1] * 3, (1,) * 3):
        torch.testing.assert_close(
            metrics.average_drop(model, images, rest), metrics.average_drop(model, images, rest, one_each)
        )


@pytest.mark.parametrize("metric", METRICS)
def test_the_probability_of_a_single_score_is_its_sigmoid(metric: Any) -> None:
    model, images, patch, rest = known()
    single = _Outputs(model, lambda scores: scores[:, 1:] - scores[:, :1])
    for maps in (patch, rest):
        # The sigmoid of the difference of two scores is the softmax of the two.
        expected = metric(model, images, maps, 1)
        for options in ({}, {"targets": 0}, {"probability": "softmax"}, {"probability": "sigmoid"}):
            torch.testing.assert_close(metric(single, images, maps, **options), expected)
    assert float(metrics.average_drop(single, images, rest)) > 0.4


@pytest.mark.parametrize("metric", METRICS)
def test_probabilities_are_those_of_the_option(metric: Any) -> None:
    model, images, maps = classifier(), torch.randn(3, 3, 8, 8), torch.rand(3, 8, 8)

    def same(scores: Tensor) -> Tensor:
        return scores

    for option, function in (("softmax", lambda scores: scores.softmax(1)), ("sigmoid", torch.sigmoid)):
        expected = metric(model, images, maps, 2, probability=function)
        torch.testing.assert_close(metric(model, images, maps, 2, probability=option), expected)
        torch.testing.assert_close(metric(_Outputs(model, function), images, maps, 2, probability=same), expected)
    one = _Outputs(model, lambda scores: scores[:, 2:3])
    torch.testing.assert_close(metric(one, images, maps), metric(model, images, maps, 2, probability="sigmoid"))
    with pytest.raises(ValueError, match=r"^probability: expected values in \[0, 1\], got values from .*; those of sc"):
        metric(_Outputs(model, lambda scores: 10 * scores), images, maps, probability=same)
    for wrong in (lambda scores: scores[:, 0], lambda scores: scores.argmax(1), lambda scores: 1.0):
        with pytest.raises(
            ValueError, match=r"^probability: expected a function that returns floats of shape \(\d+, 5\)"
        ):
            metric(model, images, maps, probability=wrong)


@pytest.mark.parametrize("metric", METRICS)
def test_training_mode_is_warned_of_where_the_metric_is_called(metric: Any) -> None:
    model, images, maps = classifier(), torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        metric(model, images, maps)
    with pytest.warns(UserWarning, match=r"^the model is in training mode; call model.eval\(\) first$") as found:
        metric(model.train(), images, maps)
    assert [warning.filename for warning in found] == [__file__]


@pytest.mark.parametrize("metric", METRICS)
def test_maps_with_nan_are_refused(metric: Any) -> None:
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    maps[1, 3, 3] = torch.nan
    with pytest.raises(ValueError, match=r"^cams: expected values .*, got NaN$"):
        metric(classifier(), images, maps)


@pytest.mark.parametrize("metric", [metrics.average_drop, metrics.average_increase])
def test_maps_that_images_are_multiplied_by_are_in_0_to_1(metric: Any) -> None:
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    for factor in (-1.0, 2.0):
        maps[0, 0, 0] = factor
        with pytest.raises(ValueError, match=r"^cams: expected values in \[0, 1\], got values from .*normalize="):
            metric(classifier(), images, maps)
    maps[0, 0, 0] = 1.001  # a rounding error
    metric(classifier(), images, maps)


@pytest.mark.parametrize("metric", [metrics.average_drop, metrics.average_increase])
def test_nan_in_scores_passes_through(metric: Any) -> None:
    images, maps = torch.rand(2, 3, 8, 8), torch.rand(2, 8, 8)
    images[1] = torch.nan
    assert metric(classifier(), images, maps, 1).isnan()
    assert metric(classifier(), images, maps, 1, probability=lambda scores: scores.softmax(1)).isnan()


def test_the_drop_of_a_probability_that_underflows_is_zero() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(4, 2, bias=False)).eval()
    model[1].weight.data = torch.tensor([[100.0], [-100.0]]).expand(2, 4)
    images = torch.tensor([1.0, 0.01]).view(2, 1, 1, 1).expand(2, 1, 2, 2)
    for target in (0, 1):
        drop = metrics.average_drop(model, images, torch.zeros(2, 2, 2), target)
        alone = metrics.average_drop(model, images[1:], torch.zeros(1, 2, 2), target)
        first = 0.5 if target == 0 else 0.0
        torch.testing.assert_close(drop, (first + alone) / 2)
    images = images.clone()
    images[0] = torch.nan
    assert metrics.average_drop(model, images, torch.zeros(2, 2, 2), 1).isnan()


@pytest.mark.parametrize("curve", [metrics.deletion_curve, metrics.insertion_curve])
def test_a_baseline_is_a_number_or_broadcasts(curve: Any) -> None:
    model, images, maps = classifier(), torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    expected = curve(model, images, maps, baseline=0.5).probabilities
    for baseline in (np.float32(0.5), torch.tensor(0.5), torch.full((3, 1, 1), 0.5), torch.full((2, 3, 4, 4), 0.5)):
        torch.testing.assert_close(curve(model, images, maps, baseline=baseline).probabilities, expected)
    message = r"baseline: expected a number or a tensor that broadcasts to \(2, 3, 4, 4\), got"
    for wrong in (torch.zeros(3), torch.zeros(1, 2, 3, 4, 4)):
        with pytest.raises(ValueError, match=message):
            curve(model, images, maps, baseline=wrong)
    for wrong in ("black", True, 1j):
        with pytest.raises(TypeError, match="baseline: expected a number or a tensor, got"):
            curve(model, images, maps, baseline=wrong)
    nested = torch.nested.nested_tensor([torch.zeros(3), torch.zeros(2)], layout=torch.strided)
    for wrong, message in (
        (torch.tensor(1j), "baseline: expected a real dtype, got torch.complex64"),
        (torch.zeros(4, 4).to_sparse(), "baseline: expected a dense tensor, got torch.sparse_coo"),
        (nested, "baseline: expected a dense tensor, got a nested one"),
    ):
        with pytest.raises(TypeError, match=message):
            curve(model, images, maps, baseline=wrong)
    with pytest.raises(ValueError, match=r"baseline: torch.float16 cannot hold 1000000.0"):
        curve(model.half(), images.half(), maps, baseline=1e6)


def test_curves_equal_probabilities_with_and_without_pixels() -> None:
    model, images, patch, rest = known()
    steps = 16  # of 16 pixels each: the first step changes the whole patch
    deletion = metrics.deletion_curve(model, images, patch, steps=steps)
    insertion = metrics.insertion_curve(model, images, patch, steps=steps, baseline=0.0)
    torch.testing.assert_close(deletion.fractions, torch.arange(17) / 16)
    with torch.no_grad():
        whole, gone = model(images).softmax(1)[:, 1], model(images * rest[:, None]).softmax(1)[:, 1]
        only = model(images * patch[:, None]).softmax(1)[:, 1]
    torch.testing.assert_close(deletion.probabilities[:, 0], whole)
    torch.testing.assert_close(deletion.probabilities[:, 1], gone)
    torch.testing.assert_close(deletion.probabilities[:, -1], torch.full((3,), 0.5))
    torch.testing.assert_close(insertion.probabilities[:, 1], only)
    torch.testing.assert_close(insertion.probabilities[:, -1], whole)
    torch.testing.assert_close(insertion.area, torch.trapezoid(insertion.probabilities, insertion.fractions, dim=1))
    for curve, better, worse in (
        (metrics.insertion_curve, patch, rest),
        (metrics.deletion_curve, rest, patch),
    ):
        assert (curve(model, images, better).area > curve(model, images, worse).area + 0.3).all()


def test_results_do_not_depend_on_the_batch_size() -> None:
    model, images, maps = classifier(), torch.randn(3, 3, 12, 12), torch.rand(3, 12, 12)
    for curve in (metrics.deletion_curve, metrics.insertion_curve):
        together = curve(model, images, maps, steps=5)
        alone = [curve(model, images[i : i + 1], maps[i : i + 1], steps=5, batch_size=1) for i in range(3)]
        torch.testing.assert_close(together.probabilities, torch.cat([one.probabilities for one in alone]))


def test_the_blur_is_a_gaussian_of_eleven_pixels() -> None:
    from torchext.cam.metrics import _blurred

    assert torch.allclose(_blurred(torch.ones(1, 3, 20, 20)), torch.ones(1, 3, 20, 20))
    spot = torch.zeros(1, 1, 21, 21)
    spot[0, 0, 10, 10] = 1.0
    blurred = _blurred(spot)[0, 0]
    assert int((blurred > 0).sum()) == 11 * 11
    torch.testing.assert_close(blurred[10, 11] / blurred[10, 10], torch.exp(torch.tensor(-1 / 50)))


@pytest.mark.filterwarnings("ignore:the model is in training mode")
@pytest.mark.parametrize("metric", METRICS)
def test_the_model_is_unchanged(metric: Any) -> None:
    model = classifier().train()
    state, random = {k: v.clone() for k, v in model.state_dict().items()}, torch.get_rng_state()
    metric(model, torch.ones(2, 3, 12, 12), torch.ones(2, 12, 12), 1)
    torch.testing.assert_close(dict(model.state_dict()), state, rtol=0, atol=0)
    assert torch.equal(torch.get_rng_state(), random)
    assert all(p.grad is None for p in model.parameters())


@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"model": 1}, TypeError, "model: expected a torch.nn.Module, got int"),
        ({"images": torch.zeros(2, 3, 4)}, ValueError, r"images: expected \(B, C, H, W\), got \(2, 3, 4\)"),
        ({"images": torch.zeros(2, 3, 4, 4).int()}, TypeError, "images: expected float16"),
        ({"cams": torch.zeros(2, 3, 4)}, ValueError, r"cams: expected \(2, 4, 4\) as of images, got \(2, 3, 4\)"),
        ({"targets": 9}, IndexError, r"targets: expected classes in \[0, 5\), got \[9, 9\]"),
        ({"targets": torch.argmax}, TypeError, "targets: expected an int, or one for each sample, got <built-in"),
        ({"targets": True}, TypeError, "targets: expected an integer dtype, got torch.bool"),
        ({"targets": [[1], [2]]}, ValueError, "targets: expected a class or one for each sample"),
        ({"probability": "logit"}, ValueError, "probability: expected one of 'softmax', 'sigmoid', got 'logit'"),
        ({"batch_size": 0}, ValueError, "batch_size: expected at least 1, got 0"),
        ({"model": nn.Conv2d(3, 4, 3).eval()}, ValueError, r"model: expected float scores \(B, classes\)"),
    ],
)
def test_wrong_calls(metric: Any, change: dict[str, Any], error: type[Exception], message: str) -> None:
    call: dict[str, Any] = {
        "model": classifier(),
        "images": torch.zeros(2, 3, 4, 4),
        "cams": torch.zeros(2, 4, 4),
        "targets": None,
        "batch_size": 2,
    }
    with pytest.raises(error, match=message):
        metric(**{**call, **change})
