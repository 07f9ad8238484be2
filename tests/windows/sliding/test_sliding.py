"""Tests of sliding_window."""

from __future__ import annotations

import dataclasses
import inspect
import sys
import types
from collections import OrderedDict
from collections.abc import Callable, Sequence
from itertools import cycle, product
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._dynamo.testing import CompileCounter
from torch.autograd import forward_ad

import torchext
from tests.memory import peak_megabytes, reads_proc

Model = Callable[[Tensor], Any]

GEOMETRIES = [
    ((2, 3, 41), (16,), 0.25),
    ((2, 3, 50, 70), (16, 24), 0.25),
    ((1, 2, 33, 47), (10, 10), 0.9),
    ((3, 1, 20, 90), (32, 32), 0.5),
    ((1, 2, 7, 9), (8, 16), 0.6),
    ((2, 1, 20, 22, 18), (8, 10, 12), (0.25, 0.75, 0.0)),
]


def positions_matter(windows: Tensor) -> Tensor:
    """The result at a position depends on the position in the window."""
    ramp = torch.linspace(0.5, 2, windows.shape[-1], dtype=windows.dtype, device=windows.device)
    return torch.cat([windows.cumsum(2), windows * ramp], 1)


def by_loop(model: Model, image: Tensor, size: Sequence[int], overlap: Any, weight: Tensor) -> Tensor:
    """The weighted mean of the model's outputs for all windows."""
    shares = overlap if isinstance(overlap, tuple) else (overlap,) * len(size)
    extents = image.shape[2:]
    missing = [max(k - extent, 0) for k, extent in zip(size, extents, strict=True)]
    image = F.pad(image, [p for m in reversed(missing) for p in (m // 2, m - m // 2)])
    starts = []
    for extent, k, share in zip(image.shape[2:], size, shares, strict=True):
        last, step = extent - k, max(int(k * (1 - share)), 1)
        starts.append(sorted({min(i * step, last) for i in range(extent)}))
    sums = weights = torch.zeros(())
    for corner in product(*starts):
        place = (..., *(slice(start, start + k) for start, k in zip(corner, size, strict=True)))
        result = model(image[place])
        if not sums.dim():
            sums = result.new_zeros(*result.shape[:2], *image.shape[2:])
            weights = result.new_zeros(image.shape[2:])
        sums[place] += result * weight
        weights[place] += weight
    return (sums / weights)[(..., *(slice(m // 2, m // 2 + e) for m, e in zip(missing, extents, strict=True)))]


@pytest.mark.parametrize(("shape", "size", "overlap"), GEOMETRIES, ids=str)
@pytest.mark.parametrize("weight", [None, "linear", "hann", "gaussian", "tensor"])
def test_is_the_weighted_mean_of_all_windows(
    shape: tuple[int, ...], size: tuple[int, ...], overlap: Any, weight: Any
) -> None:
    image = torch.randn(shape, dtype=torch.float64)
    if weight is None:
        weights = torch.ones(size, dtype=torch.float64)
    elif weight == "tensor":
        weights = weight = torch.rand(size, dtype=torch.float64) + 0.1
    else:
        weights = torchext.window_weight(size, weight, dtype=torch.float64)
    expected = by_loop(positions_matter, image, size, overlap, weights)
    for batch_size in (1, 3, 100):
        options = {"overlap": overlap, "weight": weight, "batch_size": batch_size}
        result = torchext.sliding_window(positions_matter, image, size, **options)
        torch.testing.assert_close(result, expected)
        assert result.is_contiguous()
        recorded = torchext.sliding_window(positions_matter, image.clone().requires_grad_(), size, **options)
        torch.testing.assert_close(recorded.detach(), expected)
        assert recorded.is_contiguous()


@pytest.mark.parametrize("overlap", [0.0, 0.5])
def test_elements_with_zero_weight_are_left_out_even_if_infinite(overlap: float) -> None:
    weight = torch.tensor([0.0, 1.0, 2.0, 0.0])

    def model(windows: Tensor) -> Tensor:
        return torch.where(weight == 0, float("inf"), windows)

    image = torch.rand(2, 3, 10)
    for leaf in (image, image.clone().requires_grad_()):
        result = torchext.sliding_window(model, leaf, (4,), overlap=overlap, weight=weight)
        by_zero = torchext.sliding_window(lambda x: x * (weight != 0), leaf, (4,), overlap=overlap, weight=weight)
        assert torch.equal(result, by_zero)


@pytest.mark.parametrize("weight", [None, "gaussian"])
def test_without_overlap_is_the_models_output_bit_for_bit(weight: Any) -> None:
    image = torch.randn(2, 3, 64, 96)
    for size, overlap in (((64, 96), 0.25), ((32, 24), 0)):
        for leaf in (image, image.clone().requires_grad_()):
            result = torchext.sliding_window(lambda x: x / 3, leaf, size, overlap=overlap, weight=weight)
            assert torch.equal(result, image / 3)


def test_windows_of_one_element_and_a_stride_of_one() -> None:
    image = torch.randn(1, 2, 5, 6)
    assert torch.equal(torchext.sliding_window(lambda x: x * 2, image, 1, overlap=0.99), image * 2)
    torch.testing.assert_close(torchext.sliding_window(lambda x: x * 2, image, 3, overlap=0.999), image * 2)


def test_overlaps_may_be_numpy_numbers() -> None:
    numpy = pytest.importorskip("numpy")
    image, options = torch.randn(1, 2, 20, 30), {"weight": "hann"}
    expected = torchext.sliding_window(positions_matter, image, 8, overlap=0.5, **options)
    for half in (numpy.float32(0.5), numpy.array([0.5, 0.5]), [numpy.float64(0.5)] * 2):
        assert torch.equal(torchext.sliding_window(positions_matter, image, 8, overlap=half, **options), expected)


def test_the_model_gets_full_batches_of_copied_windows() -> None:
    image = torch.arange(2 * 1 * 8 * 10.0).view(2, 1, 8, 10)
    before, seen = image.clone(), []

    def model(windows: Tensor) -> Tensor:
        seen.append(windows.clone())
        return windows.add_(1)  # changes only a copy

    torch.testing.assert_close(torchext.sliding_window(model, image, 4, overlap=0.5, batch_size=5), before + 1)
    assert torch.equal(image, before)
    assert [len(windows) for windows in seen] == [5, 5, 5, 5, 4]  # 2 samples of 3×4 windows
    windows = torch.cat(seen)
    assert windows[0].flatten()[0] == image[0, 0, 0, 0]
    assert windows[11].flatten()[-1] == image[0, 0, -1, -1]
    assert torch.equal(windows[13], image[1, :, :4, 2:6])


@pytest.mark.parametrize("mode", ["constant", "reflect", "replicate", "circular", "symmetric"])
def test_a_small_input_is_padded_evenly_and_the_result_cropped(mode: Any) -> None:
    image, seen = torch.randn(1, 2, 5, 30), []
    result = torchext.sliding_window(
        lambda x: seen.append(x) or x * 2, image, (8, 16), padding_mode=mode, value=7.0 if mode == "constant" else 0.0
    )
    torch.testing.assert_close(result, image * 2)
    rows = {
        "constant": None, "reflect": [1, 0, 1, 2, 3, 4, 3, 2], "replicate": [0, 0, 1, 2, 3, 4, 4, 4],
        "circular": [4, 0, 1, 2, 3, 4, 0, 1], "symmetric": [0, 0, 1, 2, 3, 4, 4, 3],
    }[mode]  # fmt: skip
    first = seen[0][0]
    if rows is None:
        assert (first[:, 0] == 7).all()
        assert (first[:, 6:] == 7).all()
    else:
        assert torch.equal(first, image[0, :, rows, :16])


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_an_input_smaller_than_an_output_pixel_gives_one_pixel(recorded: bool) -> None:
    for extent in range(1, 8):
        image = torch.arange(1, extent + 1.0).view(1, 1, extent, 1).expand(1, 3, extent, 12)
        pooled = torchext.sliding_window(
            lambda x: F.max_pool2d(x, 4), image.clone().requires_grad_(recorded), (8, 8), overlap=0
        )
        assert pooled.shape[2] >= 1
        assert (pooled.detach() > 0).all()  # no pixel is computed from padding alone


class Heads(NamedTuple):
    scores: Tensor
    others: list[Any]


def test_resolution_and_structure_are_those_of_the_first_batch() -> None:
    image = torch.randn(2, 3, 40, 72)

    def model(x: Tensor) -> Any:
        large = F.interpolate(x, scale_factor=2)
        return OrderedDict(
            z=Heads(x.mean(1, keepdim=True), [large, None, (F.avg_pool2d(x, 4),)]), a=x.repeat(1, 2, 1, 1)
        )

    untiled = model(image)
    for leaf in (image, image.clone().requires_grad_()):
        tiled = torchext.sliding_window(model, leaf, (16, 24), overlap=(0.25, 0.5), batch_size=3)
        assert list(tiled) == ["z", "a"]
        assert isinstance(tiled["z"], Heads)
        assert isinstance(tiled["z"].others, list)
        assert tiled["z"].others[1] is None
        torch.testing.assert_close(tiled["z"].scores, untiled["z"].scores)
        torch.testing.assert_close(tiled["z"].others[0], untiled["z"].others[0])
        torch.testing.assert_close(tiled["z"].others[2], untiled["z"].others[2])
        torch.testing.assert_close(tiled["a"], untiled["a"])


@dataclasses.dataclass(frozen=True)
class Maps:
    large: Tensor
    small: Tensor | None = None


class ModelOutput(OrderedDict[str, Any]):
    """Has its entries as attributes too, as the outputs of Hugging Face's models."""

    def __setitem__(self, key: str, value: Any) -> None:
        super().__setitem__(key, value)
        super().__setattr__(key, value)


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_the_type_of_the_output_is_that_of_the_model(recorded: bool) -> None:
    def model(x: Tensor) -> Any:
        return ModelOutput(logits=x.double(), hidden=(x * 2, Maps(large=x * 3)))

    image = torch.randn(1, 2, 30, 20, requires_grad=recorded)
    result = torchext.sliding_window(model, image, 8)
    assert type(result) is ModelOutput
    assert result.logits is result["logits"]
    torch.testing.assert_close(result.logits, image.double())
    assert type(result.hidden[1]) is Maps
    torch.testing.assert_close(result.hidden[1].large, image * 3)
    assert result.hidden[1].small is None
    with pytest.raises(TypeError, match=r"model: expected output\['a'\]\[0\].small of a floating or complex dtype"):
        torchext.sliding_window(lambda x: {"a": [Maps(x, x.long())]}, image, 8)


class Annotated(Tensor):
    """A tensor with metadata, as MONAI's MetaTensor and the images of torchvision.tv_tensors."""

    note: dict[str, Any]


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_the_class_of_the_result_is_that_of_the_input(recorded: bool) -> None:
    plain = torch.randn(1, 2, 30, 20, requires_grad=recorded)
    image = plain.as_subclass(Annotated)
    image.note = {"spacing": 0.5}

    def model(x: Tensor) -> Any:
        assert type(x) is Tensor
        return [x * 2]

    (result,) = torchext.sliding_window(model, image, 8)
    assert type(result) is Annotated
    assert result.note == image.note
    assert result.note is not image.note
    assert result.requires_grad == recorded
    torch.testing.assert_close(result.as_subclass(Tensor), plain * 2)
    labels = torchext.sliding_window(lambda x: x, image, 8, argmax=True)
    assert type(labels) is Annotated
    parameter = torchext.sliding_window(lambda x: x, nn.Parameter(plain.detach()), 8)
    assert type(parameter) is Tensor


def test_positions_at_another_resolution_are_rounded_down() -> None:
    # Windows of 6 at 0, 4 and 5 become windows of 2 at 0, 1 and 1; the image of 11 becomes one of 3.
    image = torch.randn(1, 1, 11)
    with pytest.warns(UserWarning, match=r"sliding_window: .* rounded positions; pass scale=1/3, which moves them"):
        result = torchext.sliding_window(lambda x: F.avg_pool1d(x, 3), image, (6,), weight=None, overlap=0.25)
    a, b, c = (F.avg_pool1d(image[..., start : start + 6], 3) for start in (0, 4, 5))
    assert result.shape == (1, 1, 3)
    torch.testing.assert_close(result[0, 0, 1], (a[0, 0, 1] + b[0, 0, 0] + c[0, 0, 0]) / 3)


@pytest.mark.parametrize("weight", ["gaussian", "tensor"])
def test_weights_at_another_resolution_are_those_of_the_nearest_element(weight: Any) -> None:
    image = torch.randn(1, 1, 48)
    weight = torch.rand(12) + 0.1 if weight == "tensor" else weight
    options: dict[str, Any] = {"overlap": 0.5, "weight": weight}
    whole = torchext.sliding_window(positions_matter, image, (12,), **options)
    twice = torchext.sliding_window(lambda x: positions_matter(x).repeat_interleave(2, -1), image, (12,), **options)
    torch.testing.assert_close(twice, whole.repeat_interleave(2, -1))
    third = torchext.sliding_window(lambda x: positions_matter(x)[..., 1::3], image, (12,), **options)
    torch.testing.assert_close(third, whole[..., 1::3])


def test_positions_without_weight_are_0() -> None:
    weight = torch.zeros(4, 4)
    weight[:2] = 0.3
    image = torch.randn(1, 1, 6, 4)
    for leaf in (image, image.clone().requires_grad_()):
        result = torchext.sliding_window(lambda x: x * 1, leaf, 4, overlap=0.5, weight=weight)
        torch.testing.assert_close(result[0, 0, :4], image[0, 0, :4])
        assert (result[0, 0, 4:] == 0).all()
    # This also holds without overlap: for windows next to each other and for a single window.
    image = torch.randn(1, 2, 8, 4)
    covered = torch.tensor([1.0, 1, 0, 0]).view(4, 1)
    for extent in (8, 4):
        for dtype in (torch.float32, torch.bfloat16):
            for leaf in (image[:, :, :extent], image[:, :, :extent].clone().requires_grad_()):
                result = torchext.sliding_window(lambda x, to=dtype: x.to(to), leaf, 4, overlap=0, weight=weight)
                assert torch.equal(result, leaf.to(dtype) * covered.repeat(extent // 4, 1).to(dtype))
                labels = torchext.sliding_window(lambda x: x, leaf, 4, overlap=0, weight=weight, argmax=True)
                assert torch.equal(labels, (leaf * covered.repeat(extent // 4, 1)).argmax(1))


class TestGradients:
    def test_equal_those_of_a_pointwise_model_on_the_whole_image(self) -> None:
        model = nn.Sequential(nn.Conv2d(3, 8, 1), nn.Tanh(), nn.Conv2d(8, 2, 1)).double()
        image = torch.randn(2, 3, 30, 41, dtype=torch.float64, requires_grad=True)
        incoming = torch.randn(2, 2, 30, 41, dtype=torch.float64)
        leaves = [image, *model.parameters()]
        tiled = torchext.sliding_window(model, image, 16, batch_size=3)
        expected = torch.autograd.grad(model(image), leaves, incoming)
        torch.testing.assert_close(torch.autograd.grad(tiled, leaves, incoming), expected)

    @pytest.mark.parametrize(
        ("shape", "size", "overlap"), [((1, 1, 9), (4,), 0.6), ((2, 1, 7, 3), (4, 4), 0.25)], ids=str
    )
    def test_of_higher_order_and_in_forward_mode(self, shape: Any, size: Any, overlap: Any) -> None:
        def function(image: Tensor) -> Tensor:
            return torchext.sliding_window(lambda x: positions_matter(x) ** 2, image, size, overlap=overlap)

        image = torch.randn(shape, dtype=torch.float64, requires_grad=True)
        torch.autograd.gradcheck(function, image, check_forward_ad=True, check_batched_grad=True)
        torch.autograd.gradgradcheck(function, image)

    def test_in_forward_mode_without_reverse_mode(self) -> None:
        image, tangent = torch.randn(2, 1, 3, 20, dtype=torch.float64)
        with forward_ad.dual_level(), torch.no_grad():
            dual = forward_ad.make_dual(image[None], tangent[None])
            result = torchext.sliding_window(torch.sin, dual, (2, 8))
            torch.testing.assert_close(forward_ad.unpack_dual(result).tangent, (image.cos() * tangent)[None])

    def test_inside_transforms(self) -> None:
        images = torch.randn(3, 1, 1, 12, 9, dtype=torch.float64)

        def function(image: Tensor) -> Tensor:
            return torchext.sliding_window(torch.sin, image, 6)

        torch.testing.assert_close(torch.vmap(function)(images), images.sin())
        gradient = torch.func.grad(lambda image: function(image).sum())(images[0])
        torch.testing.assert_close(gradient, images[0].cos())

    def test_of_parameters_do_not_require_a_gradient_of_the_input(self) -> None:
        scale = torch.tensor(2.0, requires_grad=True)
        image = torch.rand(1, 1, 30, 20)
        result = torchext.sliding_window(lambda x: x * scale, image, 8)
        torch.testing.assert_close(torch.autograd.grad(result.sum(), scale)[0], image.sum())

    @pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=str)
    @pytest.mark.parametrize("weight", [None, "gaussian"])
    @pytest.mark.parametrize("shape", [(2, 1, 32, 32), (1, 1, 6, 30)], ids=str)
    def test_may_start_at_a_later_window(self, shape: Any, weight: Any, dtype: torch.dtype) -> None:
        image = torch.zeros(shape, dtype=dtype)
        image[..., 3:, 16:] = torch.randn(image[..., 3:, 16:].shape)
        scale = torch.tensor(2.0, dtype=dtype, requires_grad=True)

        def skips_blank_windows(windows: Tensor) -> Tensor:
            return windows * scale**3 + 1 if windows.any() else torch.ones_like(windows)

        def never_skips(windows: Tensor) -> Tensor:
            return windows * scale**3 + 1

        options = {"weight": weight, "batch_size": 1}
        skipping = torchext.sliding_window(skips_blank_windows, image, 8, **options)
        expected = torchext.sliding_window(never_skips, image, 8, **options)
        torch.testing.assert_close(skipping, expected)
        incoming = torch.randn_like(expected)
        (gradient,) = torch.autograd.grad(skipping, scale, incoming, create_graph=True)
        (expected_gradient,) = torch.autograd.grad(expected, scale, incoming, create_graph=True)
        torch.testing.assert_close(gradient, expected_gradient)
        torch.testing.assert_close(*(torch.autograd.grad(one, scale) for one in (gradient, expected_gradient)))
        with torch.no_grad():
            torch.testing.assert_close(torchext.sliding_window(skips_blank_windows, image, 8, **options), expected)

    def test_cost_is_linear_in_the_number_of_windows(self) -> None:
        # If each window were a slice, its derivative would have the size of the image: 64 GB of zeros for 4096 windows.
        image = torch.randn(1, 1, 2048, 2048, requires_grad=True)
        result = torchext.sliding_window(lambda x: x * 2, image, 32, overlap=0, batch_size=500)
        (gradient,) = torch.autograd.grad(result.sum(), image)
        assert torch.equal(gradient, torch.full_like(image, 2))


@pytest.mark.parametrize(("shape", "size", "overlap"), GEOMETRIES, ids=str)
def test_argmax_equals_argmax_of_the_scores(shape: tuple[int, ...], size: tuple[int, ...], overlap: Any) -> None:
    image = torch.randn(shape)
    scores = torchext.sliding_window(positions_matter, image, size, overlap=overlap, weight="hann")
    for leaf in (image, image.clone().requires_grad_()):
        labels = torchext.sliding_window(positions_matter, leaf, size, overlap=overlap, weight="hann", argmax=True)
        assert labels.dtype == torch.int64
        assert not labels.requires_grad
        assert torch.equal(labels, scores.argmax(1))


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_argmax_of_half_precision_compares_sums_before_rounding(dtype: torch.dtype) -> None:
    def halves(image: Tensor, **options: Any) -> Tensor:
        return torchext.sliding_window(lambda x: x.cumsum(2).to(dtype), image, 16, overlap=0.5, **options)

    def singles(image: Tensor) -> Tensor:
        return torchext.sliding_window(lambda x: x.cumsum(2).to(dtype).float(), image, 16, overlap=0.5)

    def labels(image: Tensor) -> Tensor:
        return halves(image, argmax=True)

    image = torch.randn(1, 64, 30, 40)
    assert torch.equal(labels(image), singles(image).argmax(1))
    assert not torch.equal(labels(image), halves(image).argmax(1))
    images = image[None]
    assert torch.equal(torch.vmap(labels)(images), torch.vmap(singles)(images).argmax(2))


def test_argmax_returns_the_first_of_equal_scores_and_nan() -> None:
    scores = torch.tensor([[1.0, 3.0, 3.0, 2.0], [5.0, float("nan"), 7.0, 7.0]]).T[None, :, None, :]
    labels = torchext.sliding_window(lambda x: x, scores.expand(1, 4, 9, 2), (4, 2), argmax=True)
    assert labels[0].tolist() == [[1, 1]] * 9


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_blended_in_float32(dtype: torch.dtype) -> None:
    image = torch.randn(1, 2, 60, 40)
    halves = torchext.sliding_window(lambda x: positions_matter(x).to(dtype), image, 16, overlap=0.8)
    exact = torchext.sliding_window(lambda x: positions_matter(x).to(dtype).double(), image, 16, overlap=0.8)
    assert halves.dtype == dtype
    # The result is rounded once, at the end. It may differ by one unit where the float32 mean is between two values.
    assert (halves != exact.to(dtype)).float().mean() < 5e-3
    torch.testing.assert_close(halves, exact.to(dtype))


def test_under_autocast_the_result_has_the_dtype_of_the_model() -> None:
    model, image = nn.Conv2d(3, 4, 3, padding=1), torch.randn(1, 3, 50, 40)
    with torch.autocast("cpu", torch.bfloat16):
        with torch.no_grad():
            tiled = torchext.sliding_window(model, image, 24)
        trained = torchext.sliding_window(model, image, 24)
        assert tiled.dtype == trained.dtype == model(image).dtype == torch.bfloat16
    torch.testing.assert_close(tiled, trained)
    trained.float().sum().backward()
    assert model.weight.grad is not None


def test_works_in_inference_mode_and_without_gradients() -> None:
    model, image = nn.Conv2d(3, 4, 1), torch.randn(1, 3, 50, 40)
    for mode in (torch.inference_mode(), torch.no_grad()):
        with mode:
            result = torchext.sliding_window(model, image, 24)
            assert not result.requires_grad
            torch.testing.assert_close(result, model(image))
            assert result.is_inference() == torch.is_inference_mode_enabled()


def test_accepts_any_dtype_and_strides() -> None:
    photo = torch.randint(0, 256, (1, 31, 45, 3), dtype=torch.uint8).permute(0, 3, 1, 2)
    for dtype in (torch.uint8, torch.int16, torch.bool, torch.float16, torch.float64, torch.uint16):
        image = photo.to(dtype)
        result = torchext.sliding_window(lambda x: x.float() * 2, image, 40, batch_size=1)
        torch.testing.assert_close(result, image.float() * 2)
    waves = torch.randn(1, 1, 50, dtype=torch.complex64)
    for leaf in (waves, waves.clone().requires_grad_()):
        torch.testing.assert_close(torchext.sliding_window(lambda x: x * 1j, leaf, (16,)), waves * 1j)


@pytest.mark.parametrize(
    ("shape", "layout"),
    [((1, 3, 20, 30), torch.channels_last), ((2, 2, 9, 9, 9), torch.channels_last_3d)],
    ids=["2d", "3d"],
)
def test_windows_of_a_channels_last_input_are_channels_last(shape: Any, layout: torch.memory_format) -> None:
    def model(windows: Tensor) -> Tensor:
        assert windows.is_contiguous(memory_format=layout)
        return windows * 2

    image = torch.randn(shape).to(memory_format=layout)
    result = torchext.sliding_window(model, image, 8)
    torch.testing.assert_close(result, (image * 2).contiguous())
    assert result.is_contiguous()


def test_an_empty_batch() -> None:
    for leaf in (torch.zeros(0, 3, 20, 30), torch.zeros(0, 3, 20, 30, requires_grad=True)):
        result = torchext.sliding_window(nn.Conv2d(3, 4, 2, stride=2), leaf, 8)
        assert result.shape == (0, 4, 10, 15)


def test_the_result_is_on_the_output_device() -> None:
    result = torchext.sliding_window(lambda x: {"a": x}, torch.zeros(1, 2, 20, 30), 16, output_device="meta")
    assert result["a"].is_meta
    assert result["a"].shape == (1, 2, 20, 30)


class Turns:
    """A model with several functions, which it calls in turn for successive batches."""

    def __init__(self, *outputs: Model) -> None:
        self.outputs = cycle(outputs)

    def __call__(self, windows: Tensor) -> Any:
        return next(self.outputs)(windows)


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_outputs_in_dicts_are_matched_by_name(recorded: bool) -> None:
    image = torch.randn(1, 1, 30, 30, requires_grad=recorded)
    model = Turns(lambda x: {"same": x, "less": [-x, None]}, lambda x: {"less": [-x, None], "same": x})
    result = torchext.sliding_window(model, image, 8)
    torch.testing.assert_close(result["same"], image)
    torch.testing.assert_close(result["less"][0], -image)
    assert result["less"][1] is None
    for other in (
        lambda x: {"same": x},
        lambda x: {"same": x, "less": [None, -x]},
        lambda x: {"same": x, "more": [-x]},
    ):
        with pytest.raises(
            ValueError, match=r"expected output\['same'\], output\['less'\]\[0\] as for the first windows"
        ):
            torchext.sliding_window(Turns(lambda x: {"same": x, "less": [-x, None]}, other), image, 8)
    with pytest.raises(TypeError, match=r"torch\.float32 as for the first windows, got torch\.float64"):
        torchext.sliding_window(Turns(lambda x: x, lambda x: x.double()), image, 8)


@pytest.mark.parametrize("recorded", [False, True], ids=["plain", "recorded"])
def test_a_model_may_change_its_windows_in_place(recorded: bool) -> None:
    image = torch.randn(1, 2, 30, 20, requires_grad=recorded)
    before = image.detach().clone()
    result = torchext.sliding_window(nn.ReLU(inplace=True), image, 8)
    torch.testing.assert_close(result, before.relu())
    assert torch.equal(image, before)
    if recorded:
        result.sum().backward()
        torch.testing.assert_close(image.grad, (before > 0).float())


def test_errors_of_the_model_pass_through() -> None:
    error = RuntimeError("out of luck")

    def model(windows: Tensor) -> Tensor:
        raise error

    with pytest.raises(RuntimeError) as caught:
        torchext.sliding_window(model, torch.zeros(1, 1, 9, 9), 4)
    assert caught.value is error
    assert caught.value.__cause__ is None


class Bar:
    """Replaces tqdm."""

    made: list[Bar]

    def __init__(self, total: int, **_: Any) -> None:
        self.total, self.done, self.closed = total, 0, False
        self.made.append(self)

    def update(self, count: int) -> None:
        self.done += count

    def __enter__(self) -> Bar:
        return self

    def __exit__(self, *_: Any) -> None:
        self.closed = True


def test_progress_counts_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    Bar.made = []
    monkeypatch.setitem(sys.modules, "tqdm", types.SimpleNamespace())
    monkeypatch.setitem(sys.modules, "tqdm.auto", types.SimpleNamespace(tqdm=Bar))
    torchext.sliding_window(lambda x: x, torch.zeros(2, 1, 9, 9), 4, overlap=0, batch_size=5, progress=True)
    with pytest.raises(ZeroDivisionError):
        torchext.sliding_window(lambda x: 1 / 0, torch.zeros(2, 1, 9, 9), 4, progress=True)
    torchext.sliding_window(lambda x: x, torch.zeros(2, 1, 9, 9), 4)
    done, failed = Bar.made
    assert (done.total, done.done, done.closed) == (18, 18, True)
    assert (failed.done, failed.closed) == (0, True)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    with pytest.raises(ImportError, match=r"pip install 'torchext-ops\[progress\]'"):
        torchext.sliding_window(lambda x: x, torch.zeros(2, 1, 9, 9), 4, progress=True)


def test_module_equals_the_function() -> None:
    model = nn.Conv2d(3, 4, 1)
    module = torchext.nn.SlidingWindow(model, 16, overlap=0.5, weight="hann")
    image = torch.randn(1, 3, 40, 30)
    assert torch.equal(module(image), torchext.sliding_window(model, image, 16, overlap=0.5, weight="hann"))
    assert set(module.state_dict()) == {"model.weight", "model.bias"}
    assert "size=16, overlap=0.5" in repr(module)
    out = torch.empty(1, 4, 40, 30)
    with torch.no_grad():
        assert module(image, out=out) is out
    names = set(inspect.signature(torchext.sliding_window).parameters) - {"input", "out"}
    assert set(inspect.signature(torchext.nn.SlidingWindow).parameters) == names


_IMAGE = torch.zeros(1, 1, 8, 8)
_WRONG: list[tuple[type[Exception], str, dict[str, Any]]] = [
    (TypeError, "model: expected a callable, got int", {"model": 3}),
    (TypeError, "input: expected a tensor, or an array with shape, dtype and slices, got list", {"input": [1]}),
    (ValueError, r"size: expected \(size,\) for signals \(N, C, T\), or .* input\[None\]", {"input": _IMAGE[0]}),
    (ValueError, r"input: expected \(N, C, \*S\) with 1 to 3 .* got shape \(8, 8\)", {"input": _IMAGE[0, 0]}),
    (ValueError, r"input: .* got shape \(1, 0, 8, 8\)", {"input": torch.zeros(1, 0, 8, 8)}),
    (ValueError, "size: expected an int or 2 of them", {"size": (4, 4, 4)}),
    (ValueError, "size: expected at most 2.59", {"size": 2**40}),
    (ValueError, "size: expected at least 1 in each dimension, got 0", {"size": 0}),
    (TypeError, "size: expected an int or a sequence of ints, got float", {"size": 4.0}),
    (ValueError, "overlap: .* less than 1, or an int of at least 0 and less than 4, got 4", {"overlap": 4}),
    (ValueError, "overlap: .* an int of at least 0 and less than 2, got 2", {"overlap": 2, "halo": 1}),
    (ValueError, "overlap: expected a fraction of at least 0 and less than 1, .* got 1.0", {"overlap": 1.0}),
    (ValueError, "overlap: expected a fraction of at least 0 and less than 1, .* got nan", {"overlap": float("nan")}),
    (TypeError, "overlap: expected a number or a sequence of numbers, got bool", {"overlap": True}),
    (ValueError, r"halo: expected less than half of the window \(4, 4\), got 2", {"halo": 2}),
    (ValueError, r"size: expected multiples of 8 for scale 1/8, got \(4, 4\)", {"scale": 1 / 8}),
    (ValueError, "halo: expected at least 0", {"halo": -1}),
    (ValueError, "scale: expected at least 0.001 and at most 1000, got 0", {"scale": 0}),
    (TypeError, "scale: expected None, a number or a sequence of numbers, got str", {"scale": "half"}),
    (ValueError, "scale: expected a number or 2 of them", {"scale": (1, 2, 3)}),
    (TypeError, "skip: expected a callable, got float", {"skip": 0.5}),
    (TypeError, "skip: expected a bool, got NoneType", {"skip": lambda window: None}),
    (TypeError, "skip: expected a bool, got Tensor", {"skip": lambda window: window == 0}),
    (TypeError, "out: expected a tensor, or an array", {"out": 3}),
    (ValueError, r"out: expected shape \(1, 1, 8, 8\), got \(1, 8, 8\)", {"out": torch.empty(1, 8, 8)}),
    (TypeError, "out: expected a dtype for results of torch.float32, got torch.int64", {"out": _IMAGE.long()}),
    (ValueError, r"out: expected arrays for output, got them for output\['a'\]", {"out": {"a": _IMAGE.clone()}}),
    (ValueError, "out: expected .* not require grad", {"out": torch.zeros(1, 1, 8, 8, requires_grad=True)}),
    (ValueError, "out: expected a tensor that shares no memory with input", {"out": _IMAGE}),
    (ValueError, "argmax: expected at least two channels, got one in output", {"argmax": True}),
    (ValueError, "overlap: expected a number or 2 of them", {"overlap": (0.5,)}),
    (TypeError, "overlap: expected a number or a sequence of numbers, got str", {"overlap": "half"}),
    (ValueError, "batch_size: expected at least 1, got 0", {"batch_size": 0}),
    (TypeError, "batch_size: expected an int, got float", {"batch_size": 1.0}),
    (ValueError, "weight: expected one of None, 'linear', 'hann', 'gaussian', got 'box'", {"weight": "box"}),
    (TypeError, "weight: expected None, a str or a tensor, got int", {"weight": 1}),
    (ValueError, r"weight: expected shape \(4, 4\), that of a window, got \(4,\)", {"weight": torch.ones(4)}),
    (TypeError, "weight: expected float16.*got torch.int64", {"weight": torch.ones(4, 4).long()}),
    (ValueError, "padding_mode: expected one of 'constant'", {"padding_mode": "zeros"}),
    (TypeError, "value: expected a number, got str", {"value": "0"}),
    (TypeError, "argmax: expected a bool, got str", {"argmax": "no"}),
    (TypeError, "progress: expected a bool, got int", {"progress": 0}),
    (ValueError, "output_device: expected the name of a device, got 'foo'", {"output_device": "foo"}),
    (TypeError, "mesh: expected a torch.distributed.DeviceMesh, got int", {"mesh": 2}),
    (TypeError, "model: expected output of a floating or complex dtype", {"model": lambda x: x.long()}),
    (TypeError, "model: expected tensors in tuples, .* got str for output.1.", {"model": lambda x: [x, "x"]}),
    (ValueError, r"expected output of shape \(B, C, \*S\) with B = 4 .* \(4, 1\)", {"model": lambda x: x.mean((2, 3))}),
    (ValueError, r"got \(2, 1, 4, 4\)", {"model": lambda x: x[::2]}),
]  # fmt: skip


@pytest.mark.parametrize(("error", "message", "wrong"), _WRONG, ids=[message[:60] for _, message, _ in _WRONG])
def test_wrong_arguments_raise(error: type[Exception], message: str, wrong: dict[str, Any]) -> None:
    arguments = {"model": lambda x: x, "input": _IMAGE, "size": 4, **wrong}
    with pytest.raises(error, match=message):
        torchext.sliding_window(**arguments)


def test_outputs_that_change_between_batches_raise() -> None:
    image = torch.zeros(1, 1, 8, 8)
    results = iter([torch.zeros(2, 1, 4, 4), torch.zeros(2, 1, 4, 2)])
    with pytest.raises(ValueError, match=r"expected output of .* as for the first windows, got \(2, 1, 4, 2\)"):
        torchext.sliding_window(lambda x: next(results), image, 4, overlap=0, batch_size=2)
    others = iter([[torch.zeros(2, 1, 4, 4)], [torch.zeros(2, 1, 4, 4)] * 2])
    with pytest.raises(
        ValueError, match=r"expected output\[0\] as for the first windows, got output\[0\], output\[1\]"
    ):
        torchext.sliding_window(lambda x: next(others), image, 4, overlap=0, batch_size=2)


_PREPARE = """
import torch, torchext
options = eval(sys.argv[1])
dtype = options.pop("dtype", torch.float32)
image = torch.rand(1, 2, 2048, 1024)
def model(windows):
    return windows.to(dtype).repeat(1, 8, 1, 1)
torchext.sliding_window(model, image[..., :200, :200], 128, **options)
"""


@reads_proc
@pytest.mark.parametrize(
    ("options", "megabytes"),
    [
        ("{}", 128),  # the result: 16 channels of single precision
        ("{'dtype': torch.bfloat16}", 64 + 8),  # the result, and the sums of one row of windows
        ("{'argmax': True}", 16 + 8),  # labels, and the sums of one row of windows
    ],
)
def test_memory_is_needed_for_the_result_and_one_batch(options: str, megabytes: int) -> None:
    peak = peak_megabytes(_PREPARE, "torchext.sliding_window(model, image, 128, **options)", options)
    # A batch of 4 windows and the model's output for it have 9 MB, the sums of the weights of one row of windows 1 MB.
    # The rest is for memory pages: huge pages count as a whole, and code that runs for the first time has pages too.
    assert 0.95 * megabytes < peak < megabytes + 32


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
class TestOnCuda:
    def test_equals_the_cpu(self) -> None:
        image = torch.randn(2, 3, 50, 70)
        expected = torchext.sliding_window(positions_matter, image, (16, 24))
        for leaf in (image.cuda(), image.cuda().requires_grad_()):
            result = torchext.sliding_window(positions_matter, leaf, (16, 24))
            torch.testing.assert_close(result.detach().cpu(), expected)
            assert torch.equal(torchext.sliding_window(positions_matter, leaf, (16, 24)), result)

    def test_windows_on_the_device_and_the_result_on_the_cpu(self) -> None:
        image = torch.randn(1, 3, 50, 70)
        for source in (image, image.cuda()):
            result = torchext.sliding_window(lambda x: x.cuda() * 2, source, 16, output_device="cpu")
            torch.testing.assert_close(result, image * 2)


def test_only_the_model_is_compiled_and_not_the_loop_over_windows() -> None:
    """If the loop were traced, each row of windows and each size of an image would be compiled anew."""
    around, inside = CompileCounter(), CompileCounter()
    model = nn.Conv2d(3, 4, 3, padding=1)
    compiled = torch.compile(model, backend=inside)
    call = torch.compile(lambda x: torchext.sliding_window(compiled, x, 16) * 2, backend=around)
    with torch.no_grad():
        for height in (40, 50):
            image = torch.rand(1, 3, height, 33)
            torch.testing.assert_close(call(image), torchext.sliding_window(model, image, 16) * 2)
    assert inside.op_count > 0
    assert around.op_count <= 2  # operations on the result
