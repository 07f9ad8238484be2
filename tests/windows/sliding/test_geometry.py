"""Tests of where the windows of sliding_window are: halo, scale and overlap, and networks without padding."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import torchext

CONVOLUTIONS = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}
POOLS = {1: nn.AvgPool1d, 2: nn.AvgPool2d, 3: nn.AvgPool3d}


def local_network(draw: random.Random, rank: int, padded: bool, stride: int) -> tuple[nn.Module, int]:
    """A network with integer weights, and the radius of the positions on which an output depends."""
    layers: list[nn.Module] = []
    radius, channels = 0, 2
    for _ in range(draw.randint(1, 3)):
        kernel, dilation = draw.choice([1, 3, 5]), draw.choice([1, 2])
        reach = dilation * (kernel // 2)
        convolution = CONVOLUTIONS[rank](channels, 2, kernel, padding=reach * padded, dilation=dilation)
        for parameter in convolution.parameters():
            parameter.data = torch.randint(-1, 2, parameter.shape).to(parameter.dtype)
        layers += [convolution, nn.ReLU()]
        radius += reach
    if stride > 1:
        layers.append(POOLS[rank](stride))
    return nn.Sequential(*layers), radius


def random_geometry(seed: int) -> tuple[nn.Module, Tensor, tuple[int, ...], dict[str, Any]]:
    draw = random.Random(seed)
    torch.manual_seed(seed)
    rank, padded = draw.choice([1, 1, 2, 2, 2, 3]), draw.random() < 0.75
    stride = draw.choice([1, 1, 2, 4]) if padded else 1
    network, radius = local_network(draw, rank, padded, stride)
    halo = radius + draw.randint(0, 3) * padded
    halo += -halo % stride
    size = tuple((2 * halo // stride + draw.randint(1, 12)) * stride for _ in range(rank))
    image = tuple(k + stride * draw.randint(0, {1: 60, 2: 30, 3: 8}[rank]) for k in size)
    scale = 1 / stride if stride > 1 or draw.random() < 0.5 or not padded else None
    overlap = draw.choice([0, 0.0, 0.25, 0.5, draw.randint(0, (min(size) - 2 * halo) // 2)])
    options = {"halo": halo, "scale": scale, "overlap": overlap, "batch_size": draw.randint(1, 9)}
    return network, torch.randint(-3, 4, (draw.randint(1, 2), 2, *image)).float(), size, options


def check_geometry(seed: int) -> float:
    """Compare with the network on the whole image; returns the largest relative difference in float32."""
    network, image, size, options = random_geometry(seed)
    with torch.no_grad():
        exact, wide = network.double()(image.double()), {"weight": None, **options}
        assert torch.equal(torchext.sliding_window(network, image.double(), size, **wide), exact), (seed, size, options)
        recorded = image.double().requires_grad_()
        single = torchext.sliding_window(network.float(), image, size, **options)
    if seed % 3 == 0:
        tiled = torchext.sliding_window(network.double(), recorded, size, **wide)
        assert torch.equal(tiled, exact), (seed, size, options)
    network.float()
    return float(((single - exact).abs() / exact.abs().clamp(min=1)).max())


@pytest.mark.parametrize("seed", range(30))
def test_with_a_halo_a_local_network_gives_the_result_for_the_whole_image(seed: int) -> None:
    assert check_geometry(seed) <= 1e-6


def test_the_model_gets_no_more_windows_than_necessary_for_a_halo() -> None:
    seen: list[Tensor] = []
    for extent, count in ((10, 1), (16, 2), (17, 3), (28, 5)):  # windows of 10 keep 10, 8 at a border, otherwise 6
        seen.clear()
        image = torch.arange(float(extent)).view(1, 1, -1)
        result = torchext.sliding_window(lambda x: seen.append(x) or x, image, (10,), halo=2, overlap=0, batch_size=1)
        torch.testing.assert_close(result, image)
        assert len(seen) == count
        assert all(window.shape == (1, 1, 10) for window in seen)


def test_halo_with_argmax_a_tensor_of_weights_and_a_small_input() -> None:
    image, weight = torch.randn(1, 3, 9, 40), torch.rand(12, 12) + 0.1
    blur = nn.AvgPool2d(3, stride=1, padding=1)
    options: dict[str, Any] = {"halo": 2, "weight": weight, "overlap": 0.5}
    scores = torchext.sliding_window(blur, F.pad(image, (0, 0, 2, 1)), 12, **options)
    torch.testing.assert_close(scores, blur(F.pad(image, (0, 0, 2, 1))))
    small = torchext.sliding_window(blur, image, (12, 12), padding_mode="constant", **options)
    assert small.shape == image.shape
    labels = torchext.sliding_window(blur, image, (12, 12), argmax=True, **options)
    assert torch.equal(labels, small.argmax(1))


def test_a_halo_that_is_no_whole_position_of_the_output_raises() -> None:
    with pytest.raises(
        ValueError, match=r"halo: expected .* positions in output are integers; pass scale=1/4, with which they are"
    ):
        torchext.sliding_window(nn.AvgPool1d(4), torch.zeros(1, 1, 64), (16,), halo=2)
    ramp = torch.arange(64.0).view(1, 1, -1)
    result = torchext.sliding_window(nn.AvgPool1d(4), ramp, (16,), halo=2, scale=1 / 4)
    torch.testing.assert_close(result, F.avg_pool1d(ramp, 4))


@pytest.mark.parametrize(
    ("size", "output"), [((32, 32), (24, 24)), ((32, 48), (24, 40)), ((32,), (24,)), ((32, 32), (24, 32))], ids=str
)
def test_a_network_without_padding_raises(size: tuple[int, ...], output: tuple[int, ...]) -> None:
    def model(windows: Tensor) -> Tensor:
        cuts = [(k - new) // 2 for k, new in zip(size, output, strict=True)]
        for axis, (cut, new) in enumerate(zip(cuts, output, strict=True), 2):
            windows = windows.narrow(axis, cut, new)
        return windows

    image = torch.randn(1, 1, *(2 * k for k in size))
    with pytest.raises(
        ValueError, match=r"model: expected output .* of the window .* got spatial size .* pass .*scale="
    ):
        torchext.sliding_window(model, image, size)
    if len({k - new for k, new in zip(size, output, strict=True)}) == 1:
        with pytest.raises(ValueError, match="halo=4 and scale=1 for a network without padding"):
            torchext.sliding_window(model, image, size)
        with pytest.raises(ValueError, match=r"with scale 1 and halo 2, .* pass halo=4"):
            torchext.sliding_window(model, image, size, halo=2, scale=1)
        for scale in (None, 1):
            result = torchext.sliding_window(model, image, size, halo=4, scale=scale)
            inner = tuple(slice(4, -4) for _ in size)
            torch.testing.assert_close(result, image[(..., *inner)])


def test_a_scale_gives_the_ratio_that_an_output_has() -> None:
    thirds = torch.randn(1, 1, 24, 36)
    result = torchext.sliding_window(
        lambda x: F.interpolate(x, scale_factor=2 / 3), thirds, 12, scale=2 / 3, overlap=0.5
    )
    torch.testing.assert_close(result, F.interpolate(thirds, scale_factor=2 / 3))
    # The output of 12 for a window of 100 has the ratio 1/8, not 12/100.
    ramp = torch.arange(960.0).expand(1, 1, 100, 960)
    with pytest.raises(ValueError, match="pass halo=44 and scale=1 for a network without padding, scale=3/25 if"):
        torchext.sliding_window(nn.AvgPool2d(8), ramp, 100)
    with pytest.raises(ValueError, match=r"size: expected multiples of 8 for scale 1/8, got \(100, 100\)"):
        torchext.sliding_window(nn.AvgPool2d(8), ramp, 100, scale=1 / 8)
    # The end of an image that is no multiple is left out, as by the model.
    tiled = torchext.sliding_window(nn.AvgPool2d(8), ramp[..., :957], 96, scale=1 / 8)
    torch.testing.assert_close(tiled, F.avg_pool2d(ramp[..., :957], 8))


def test_with_a_scale_windows_start_at_multiples() -> None:
    ramp = torch.arange(200.0).expand(1, 1, 32, 200)
    for overlap in (0.4, 3, (0, 11)):
        with pytest.warns(UserWarning, match="pass scale=1/8, which moves them") as caught:
            rounded = torchext.sliding_window(nn.AvgPool2d(8), ramp, 32, overlap=overlap)
        assert len(caught) == 1
        assert (rounded - F.avg_pool2d(ramp, 8)).abs().max() > 1
        exact = torchext.sliding_window(nn.AvgPool2d(8), ramp, 32, overlap=overlap, scale=0.125)
        torch.testing.assert_close(exact, F.avg_pool2d(ramp, 8))


def test_a_scale_is_the_smallest_of_several_outputs() -> None:
    def model(windows: Tensor) -> dict[str, Tensor]:
        return {"fine": windows * 2, "coarse": F.avg_pool2d(windows, 4), "coarser": F.avg_pool2d(windows, 8)}

    image = torch.randn(1, 1, 40, 56)
    with pytest.warns(UserWarning, match="pass scale=1/8"):
        torchext.sliding_window(model, image, 24, overlap=7)
    result = torchext.sliding_window(model, image, 24, overlap=7, scale=1 / 8)
    for name, expected in model(image).items():
        torch.testing.assert_close(result[name], expected)
    with pytest.raises(ValueError, match=r"expected output\['coarser'\] .* with scale 1/4 .* pass scale=1/8 if"):
        torchext.sliding_window(lambda x: {"coarser": F.avg_pool2d(x, 8)}, image, (24, 16), scale=1 / 4)


def test_a_fraction_of_a_billionth_less_than_a_whole_position_is_that_position() -> None:
    starts: list[float] = []

    def model(windows: Tensor) -> Tensor:
        starts.extend(windows[:, 0, 0, 0].tolist())
        return F.avg_pool2d(windows, 8)

    ramp = torch.arange(960.0).expand(1, 1, 96, 960)
    result = torchext.sliding_window(model, ramp, 96, overlap=(0, 40 / 96))
    torch.testing.assert_close(result, F.avg_pool2d(ramp, 8))
    assert starts[:3] == [0, 56, 112]


def test_an_int_is_an_overlap_of_that_many_positions() -> None:
    starts: list[float] = []
    numpy = pytest.importorskip("numpy")
    for overlap, step in ((3, 7), (numpy.int64(3), 7), ((9,), 1), (0, 10), (1, 9)):
        starts.clear()
        torchext.sliding_window(
            lambda x: starts.extend(x[:, 0, 0].tolist()) or x, torch.arange(30.0).view(1, 1, -1), (10,), overlap=overlap
        )
        assert starts[:2] == [0, step]


@pytest.mark.parametrize("mode", ["reflect", "circular", "symmetric"])
@pytest.mark.parametrize("extent", [1, 2, 5])
def test_padding_may_be_wider_than_the_input(mode: Any, extent: int) -> None:
    numpy, seen = pytest.importorskip("numpy"), []
    image = torch.randn(1, 1, extent)
    result = torchext.sliding_window(lambda x: seen.append(x) or x * 2, image, (21,), padding_mode=mode)
    torch.testing.assert_close(result, image * 2)
    before = (21 - extent) // 2
    name = {"circular": "wrap"}.get(mode, mode)
    expected = numpy.pad(image[0, 0].numpy(), (before, 21 - extent - before), mode=name)
    assert torch.equal(seen[0][0, 0], torch.from_numpy(expected))
