"""Which layer CAM finds, and the grid of its output, in models with tokens, volumes, signals and unusual inputs."""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchext
from tests.models import TokenModel


class Fn(nn.Module):
    """A function as a module."""

    def __init__(self, function: Callable[[Tensor], Any]) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: Tensor) -> Any:
        return self.function(x)


def tokens() -> Fn:
    return Fn(lambda x: x.flatten(2).mT)


def mean() -> Fn:
    return Fn(lambda x: x.mean(1))


def encoder(dim: int, depth: int = 2) -> nn.Module:
    block = nn.TransformerEncoderLayer(dim, 4, 2 * dim, batch_first=True, dropout=0.0, norm_first=True)
    return nn.TransformerEncoder(block, depth, enable_nested_tensor=False)


class AmongOthers(nn.Module):
    """Tokens of patches, with other tokens before and after them."""

    def __init__(self, before: int, after: int, only_first: bool = False) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 16, 16), encoder(32), nn.Linear(32, 5)
        self.before = nn.Parameter(torch.randn(1, before, 32))
        self.after = nn.Parameter(torch.randn(1, after, 32))
        self.only_first = only_first

    def forward(self, x: Tensor) -> Tensor:
        others = [tokens.expand(len(x), -1, -1) for tokens in (self.before, self.after)]
        y = self.encoder(torch.cat([others[0], self.embed(x).flatten(2).mT, others[1]], 1))
        return self.head(y[:, 0] if self.only_first else y.mean(1))


class Queries(nn.Module):
    """Queries that read a map, as in DETR. There are as many as in a grid of half the size."""

    def __init__(self) -> None:
        super().__init__()
        self.backbone, self.encoder, self.head = nn.Conv2d(3, 32, 32, 32), encoder(32), nn.Linear(32, 5)
        self.queries = nn.Parameter(torch.randn(1, 25, 32))
        self.decoder = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0), 1)

    def forward(self, x: Tensor) -> Tensor:
        memory = self.encoder(self.backbone(x).flatten(2).mT)
        return self.head(self.decoder(self.queries.expand(len(x), -1, -1), memory)).mean(1)


class Windows(nn.Module):
    """Tokens in the order of windows of 2 by 2, as in Hiera."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 16, 16), encoder(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x).unflatten(3, (-1, 2)).unflatten(2, (-1, 2))
        return self.head(self.encoder(maps.permute(0, 2, 4, 3, 5, 1).flatten(1, 4)).mean(1))


class Merge(nn.Module):
    """Merges 2 by 2 tokens of a square, as in Swin."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.reduce = nn.Linear(4 * dim, 2 * dim)

    def forward(self, x: Tensor) -> Tensor:
        side = math.isqrt(x.shape[1])
        pairs = x.unflatten(1, (side // 2, 2, side // 2, 2)).permute(0, 1, 3, 2, 4, 5)
        return self.reduce(pairs.flatten(3).flatten(1, 2))


class TimeLast(nn.Module):
    """Tokens of the frames of a video ``(B, T, C, H, W)``, in which the frame varies fastest, as in TimeSformer."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 16, 16), encoder(32), nn.Linear(32, 5)
        self.class_token = nn.Parameter(torch.randn(1, 1, 32))

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x.flatten(0, 1)).flatten(2).mT.unflatten(0, x.shape[:2]).transpose(1, 2).flatten(1, 2)
        return self.head(self.encoder(torch.cat([self.class_token.expand(len(x), -1, -1), patches], 1))[:, 0])


class Spectrogram(nn.Module):
    """Overlapping patches of a spectrogram ``(B, T, F)``, the frequency first, after two tokens, as in AST."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder = nn.Conv2d(1, 32, 16, 10), encoder(32)
        self.others, self.head = nn.Parameter(torch.randn(1, 2, 32)), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x.unsqueeze(1).mT).flatten(2).mT
        return self.head(self.encoder(torch.cat([self.others.expand(len(x), -1, -1), patches], 1))[:, :2].mean(1))


class Text(nn.Module):
    """Tokens of a text, of which the first is the class token, as in BERT."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Embedding(100, 32), encoder(32), nn.Linear(32, 5)
        self.positions = nn.Parameter(torch.randn(1, 64, 32))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x) + self.positions[:, : x.shape[1]])[:, 0])


class BatchSecond(nn.Module):
    """Tokens ``(N, B, C)``, whose batch is not the first dimension."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.head = nn.Conv2d(3, 32, 16, 16), nn.Linear(32, 5)
        self.encoder = nn.TransformerEncoderLayer(32, 4, 64, dropout=0.0)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x).flatten(2).permute(2, 0, 1)).mean(0))


class Recurrent(nn.Module):
    """A recurrent layer over a sequence ``(B, L, F)``."""

    def __init__(self) -> None:
        super().__init__()
        self.rnn, self.head = nn.LSTM(6, 16, batch_first=True), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.rnn(x)[0].mean(1))


def pooled(maps: nn.Module, channels: int) -> nn.Sequential:
    return nn.Sequential(maps, Fn(lambda x: x.flatten(2).mean(2)), nn.Linear(channels, 5))


def convolved(prepare: Callable[[Tensor], Tensor], convolution: nn.Conv2d | nn.Conv3d) -> nn.Module:
    return pooled(nn.Sequential(Fn(prepare), convolution), convolution.out_channels)


# A model, its input, the layer, the grid in the order of the input's dimensions, and the size of the map.
FOUND: dict[str, tuple[Callable[[], nn.Module], Callable[[], Tensor], str, tuple[int, ...], tuple[int, ...]]] = {
    "tokens of a volume": (
        lambda: nn.Sequential(
            nn.Conv3d(3, 8, (2, 16, 16), (2, 16, 16)), tokens(), nn.LayerNorm(8), mean(), nn.Linear(8, 5)
        ),
        lambda: torch.randn(2, 3, 16, 64, 96), "2", (8, 4, 6), (16, 64, 96),
    ),
    "tokens behind prompts": (
        lambda: AmongOthers(101, 0), lambda: torch.randn(2, 3, 224, 224), "encoder", (14, 14), (224, 224)
    ),
    "tokens between others": (
        lambda: AmongOthers(1, 5, only_first=True), lambda: torch.randn(2, 3, 96, 160),
        "encoder.layers.1.norm1", (6, 10), (96, 160),
    ),
    "queries": (Queries, lambda: torch.randn(2, 3, 320, 320), "encoder", (10, 10), (320, 320)),
    "merged tokens": (
        lambda: nn.Sequential(
            nn.Conv2d(3, 16, 4, 4), tokens(), encoder(16, 1), Merge(16), encoder(32, 1), Merge(32), nn.LayerNorm(64),
            mean(), nn.Linear(64, 5),
        ),
        lambda: torch.randn(2, 3, 96, 96), "6", (6, 6), (96, 96),
    ),
    "patches by a linear layer": (
        lambda: nn.Sequential(
            Fn(lambda x: x.unfold(2, 8, 8).unfold(3, 8, 8).permute(0, 2, 3, 1, 4, 5).flatten(3).flatten(1, 2)),
            nn.Linear(192, 32), encoder(32), mean(), nn.Linear(32, 5),
        ),
        lambda: torch.randn(2, 3, 64, 96), "2", (8, 12), (64, 96),
    ),
    "frames": (
        TimeLast, lambda: torch.randn(2, 8, 3, 64, 96), "encoder.layers.1.norm1", (8, 4, 6), (8, 64, 96)
    ),
    "frames before channels": (
        lambda: convolved(lambda x: x.transpose(1, 2), nn.Conv3d(3, 8, (2, 8, 8), (2, 8, 8))),
        lambda: torch.randn(2, 8, 3, 32, 48), "0", (4, 4, 6), (8, 32, 48),
    ),
    "channels last": (
        lambda: convolved(lambda x: x.permute(0, 3, 1, 2), nn.Conv2d(3, 8, 4, 4)),
        lambda: torch.randn(2, 32, 48, 3), "0", (8, 12), (32, 48),
    ),
    "spectrogram": (
        lambda: convolved(lambda x: x.unsqueeze(1), nn.Conv2d(1, 8, 4, 4)),
        lambda: torch.randn(2, 100, 64), "0", (25, 16), (100, 64),
    ),
    "frequency before time": (
        Spectrogram, lambda: torch.randn(2, 256, 64), "encoder.layers.1.norm1", (25, 5), (256, 64)
    ),
    "sequence": (Recurrent, lambda: torch.randn(2, 40, 6), "rnn", (40,), (40,)),
    "text": (Text, lambda: torch.randint(0, 100, (2, 20)), "encoder.layers.1.norm1", (20,), (20,)),
}  # fmt: skip


@pytest.mark.parametrize("name", FOUND)
def test_the_layer_and_its_grid_are_found(name: str) -> None:
    torch.manual_seed(0)
    make, make_input, layer, grid, size = FOUND[name]
    model, input = make().eval(), make_input()
    cam = torchext.CAM(model, size=None)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that of the queries, of which most layers are
        assert cam(input, 1).shape == (2, *grid)
    assert cam.layers == (layer,)
    assert torchext.CAM(model, layer)(input, 1).shape == (2, *size)


@pytest.mark.parametrize("name", FOUND)
def test_maps_are_where_the_input_changes(name: str) -> None:
    """A change of the input in one corner changes the layer's maps most in this corner."""
    torch.manual_seed(0)
    make, make_input, layer, grid, _ = FOUND[name]
    model, input = make().eval(), make_input()
    cam = torchext.CAM(model, layer, method="eigencam", relu=False, normalize=None)
    cam(input)
    layout = next(iter(cam._layouts.values()))
    assert layout.axes is not None
    changed = input.clone()
    corner = [slice(None)] * input.dim()
    for axis in layout.axes:
        corner[axis] = slice(0, -(-input.shape[axis] // 3))
    part = changed[tuple(corner)]
    changed[tuple(corner)] = part.flip(0) if name == "text" else torch.randn_like(part)
    outputs: list[Tensor] = []

    def keep(module: nn.Module, args: Any, output: Any) -> None:
        outputs.append(output[0] if isinstance(output, tuple) else output)

    handle = model.get_submodule(layer).register_forward_hook(keep)
    with torch.no_grad():
        model(input), model(changed)
    handle.remove()
    change = layout.maps(outputs[1] - outputs[0]).abs().sum((0, 1))
    inside = change[tuple(slice(0, max(1, side // 4)) for side in grid)].mean()
    outside = change[tuple(slice(-max(1, side // 2), None) for side in grid)].mean()
    assert inside > 1.3 * outside


class InRows(nn.Module):
    """Tokens of rows in alternate directions, as in models that scan an image."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 16, 16), encoder(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x)
        maps = torch.stack([row.flip(-1) if r % 2 else row for r, row in enumerate(maps.unbind(2))], 2)
        return self.head(self.encoder(maps.flatten(2).mT).mean(1))


class InWindows(nn.Module):
    """Windows next to each other, ``(B, windows, positions, C)``, of which there are about as many as positions."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 4, 4), nn.Linear(32, 32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        maps = self.embed(x).unflatten(3, (4, -1)).unflatten(2, (4, -1))
        return self.head(self.encoder(maps.permute(0, 2, 4, 3, 5, 1).flatten(3, 4).flatten(1, 2)).mean((1, 2)))


@pytest.mark.parametrize(
    ("make", "layer"),
    [(Windows, "encoder"), (BatchSecond, "encoder"), (InRows, "encoder"), (InWindows, "encoder")],
)
def test_an_output_whose_positions_are_unknown_is_refused(make: Callable[[], nn.Module], layer: str) -> None:
    torch.manual_seed(0)
    model, images = make().eval(), torch.randn(2, 3, 96, 96)
    with pytest.raises(ValueError, match=r"layer: expected an output whose positions are a grid .* pass reshape="):
        torchext.CAM(model, layer)(images, 1)


@pytest.mark.parametrize("make", [Windows, BatchSecond, InRows])
def test_an_early_layer_is_reported(make: Callable[[], nn.Module]) -> None:
    torch.manual_seed(0)
    cam = torchext.CAM(make().eval(), size=None)
    with pytest.warns(UserWarning, match="explains 'embed', since the positions of the .* layers after"):
        assert cam(torch.randn(2, 3, 96, 96), 1).shape == (2, 6, 6)


class Frames(nn.Module):
    """Tokens of each frame of a video, ``(B, T, N, C)``."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = (
            nn.Conv3d(3, 32, (1, 8, 8), (1, 8, 8)),
            nn.Linear(32, 32),
            nn.Linear(32, 5),
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.encoder(self.embed(x).flatten(3).permute(0, 2, 3, 1)).mean((1, 2)))


# A function between a model's input and a convolution, and the axes of its maps if these are still a grid of the input.
MOVED: dict[str, tuple[Callable[[Tensor], Tensor], tuple[int, int] | None]] = {
    "transposed": (lambda x: x.mT, (3, 2)),
    "mirrored": (lambda x: x.flip(3), None),
    "upside down": (lambda x: x.flip(2), None),
    "rolled": (lambda x: x.roll((16, 16), (2, 3)), None),
    "cut": (lambda x: x[:, :, 8:24, 8:24], None),
}


@pytest.mark.parametrize("moved_first", [True, False])
@pytest.mark.parametrize("name", MOVED)
def test_maps_are_in_the_order_of_the_input(name: str, moved_first: bool) -> None:
    """The sides of the maps have the proportions of the input's, so that only their contents show the order."""
    torch.manual_seed(0)
    move, axes = MOVED[name]
    parts = [nn.Conv2d(3, 8, 4, 4) if name != "cut" or not moved_first else nn.Conv2d(3, 8, 2, 2)]
    parts.insert(0 if moved_first else 1, Fn(move if moved_first or name != "cut" else lambda x: x[:, :, 2:6, 2:6]))
    if not moved_first and name == "rolled":
        parts[1] = Fn(lambda x: x.roll((4, 4), (2, 3)))
    model = pooled(nn.Sequential(*parts, nn.Conv2d(8, 8, 1)), 8).eval()
    images = torch.randn(2, 3, 32, 32)
    for explained in ("0.2", None) if axes else ("0.2",):
        cam = torchext.CAM(model, explained, size=None, relu=False, normalize=None)
        if axes is None:
            with pytest.raises(ValueError, match="layer: expected an output whose positions are a grid"):
                cam(images, 1)
        else:
            by_hand = torchext.CAM(model, "0.2", size=None, relu=False, normalize=None, reshape=lambda maps: maps.mT)
            torch.testing.assert_close(cam(images, 1), by_hand(images, 1))


def passes(model: nn.Module, input: Tensor, layer: str | None = None) -> int:
    """The number of forward passes of the first call of CAM."""
    count = 0

    def increase(*_: Any) -> None:
        nonlocal count
        count += 1

    model.register_forward_pre_hook(increase)
    torchext.CAM(model.eval(), layer)(input, lambda output: output.flatten(1).sum(1))
    return count


def test_layers_of_unclear_positions_are_tried_together() -> None:
    after = [nn.Conv2d(8 + k, 9 + k, 1) for k in range(8)]
    model = nn.Sequential(nn.Conv2d(3, 8, 4, 4), Fn(lambda x: x.flip(2)), *after)
    with pytest.warns(UserWarning, match="positions"):
        assert passes(model, torch.randn(1, 3, 32, 32)) <= 8


def test_layers_of_the_size_of_the_scores_are_tried_once() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 4, 4), *(nn.Conv2d(8 if k else 6, 8, 3, padding=1) for k in range(12)))
    with warnings.catch_warnings():
        warnings.simplefilter("error")  # the positions of these layers are known
        assert passes(model, torch.randn(1, 3, 32, 32)) <= 12


class Pads(nn.Module):
    """Pads its input to multiples of 64, at the end as torchvision's detectors do, or on both sides."""

    def __init__(self, on_both_sides: bool, pads: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 8, 7, 4, 3), nn.Conv2d(8, 16, 3, 4, 1)
        self.head, self.on_both_sides, self.pads = nn.Linear(16, 5), on_both_sides, pads

    def padding(self, x: Tensor) -> tuple[int, int, int, int]:
        below, right = (-size % 64 for size in x.shape[2:])
        above, left = (below // 2, right // 2) if self.on_both_sides else (0, 0)
        return left, right - left, above, below - above

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.pad(x, self.padding(x)) if self.pads else x
        return self.head(self.last(self.first(x).relu()).relu().mean((2, 3)))


@pytest.mark.parametrize("on_both_sides", [False, True])
@pytest.mark.parametrize("layer", [None, "last"])
@pytest.mark.parametrize("method", ["gradcam", "ablationcam"])
def test_the_map_of_a_padded_input_is_that_of_the_input(on_both_sides: bool, layer: str | None, method: Any) -> None:
    model = Pads(on_both_sides).eval()
    cam = torchext.CAM(model, layer, method=method, normalize=None, relu=False)
    for size in ((64, 128), (100, 158), (70, 128)):  # the first needs no padding
        x = torch.randn(2, 3, *size)
        x[:, :, -15:] = 0  # black rows are not padding
        left, _, above, _ = model.padding(x)
        found = cam(x, 1)
        # Around the input, the map of the padded one also depends on positions that are only padding.
        inside = (..., slice(10, size[0] - 10), slice(10, size[1] - 10))
        whole = maps_of_padded(model, x, method)
        expected = whole[..., above : above + size[0], left : left + size[1]]
        torch.testing.assert_close(found[inside], expected[inside])


def maps_of_padded(model: Pads, x: Tensor, method: Any) -> Tensor:
    """The maps for the padded input, by a model that does not pad."""
    x = nn.functional.pad(x, model.padding(x))
    without = Pads(False, pads=False).eval()
    without.load_state_dict(model.state_dict())
    return torchext.CAM(without, "last", method=method, normalize=None, relu=False)(x, 1)


def test_the_masks_of_a_padded_input_are_on_the_input() -> None:
    model, x = Pads(on_both_sides=True).eval(), torch.rand(1, 3, 100, 158) + 1
    inputs: list[Tensor] = []
    model.register_forward_pre_hook(lambda _, args: inputs.append(args[0].clone()))
    activations = model.last(model.first(nn.functional.pad(x, model.padding(x))).relu())
    torchext.CAM(model, "last", method="scorecam")(x, 1)
    left, _, above, _ = model.padding(x)
    whole = nn.functional.interpolate(activations, (128, 192), mode="bilinear")
    expected = whole[0, :, above + 10 : above + 90, left + 10 : left + 148].flatten(1)
    masks = (inputs[-1] / x)[:, 0, 10:90, 10:148].flatten(1)
    assert (
        torch.stack([torch.corrcoef(torch.stack(pair))[0, 1] for pair in zip(masks, expected, strict=True)]).min()
        > 0.9999
    )


def test_the_padding_of_a_convolution_is_its_own() -> None:
    same = nn.Sequential(nn.ZeroPad2d((0, 1, 0, 1)), nn.Conv2d(3, 8, 3, 2), tokens(), mean(), nn.Linear(8, 5)).eval()
    other = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), tokens(), mean(), nn.Linear(8, 5)).eval()
    for model in (same, other):
        layer, x = "1" if model is same else "0", torch.randn(1, 3, 32, 32)
        maps = torchext.CAM(model, layer, size=None, normalize=None, relu=False)(x, 1)
        resized = nn.functional.interpolate(maps.unsqueeze(1), (32, 32), mode="bilinear").squeeze(1)
        torch.testing.assert_close(torchext.CAM(model, layer, normalize=None, relu=False)(x, 1), resized)


@pytest.mark.parametrize("normalize", ["max", "minmax"])
def test_maps_are_normalised_without_the_padding(normalize: Any) -> None:
    model = Pads(on_both_sides=False).eval()
    nn.init.constant_(model.last.bias, 3.0)
    maps = torchext.CAM(model, "last", normalize=normalize)(torch.randn(2, 3, 65, 65), 1)
    assert maps.amax((1, 2)).min() > 0.5
    assert maps.amax() <= 1


@pytest.mark.parametrize("layer", [None, "1"])
def test_a_small_map_of_single_pixels_has_a_grid(layer: str | None) -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 1, 8), nn.Conv2d(8, 16, 1, 4), nn.Flatten(), nn.Linear(16 * 12, 5)).eval()
    assert torchext.CAM(model, layer, size=None)(torch.randn(2, 3, 96, 128)).shape == (2, 3, 4)


def test_frames_of_tokens_are_no_map() -> None:
    torch.manual_seed(0)
    video = torch.randn(2, 3, 8, 32, 32)
    for layer in ("encoder", "head"):
        with pytest.raises(ValueError, match="layer: expected an output whose positions are a grid"):
            torchext.CAM(Frames().eval(), layer)(video, 1)


def test_coordinates_of_boxes_are_no_map() -> None:
    class Boxes(nn.Module):
        """Four numbers for each position, as for the sides of boxes in YOLO, each from a part of the columns."""

        def __init__(self) -> None:
            super().__init__()
            self.features, self.sides = nn.Conv2d(3, 64, 4, 4), nn.Conv2d(16, 1, 1)
            self.parts = torch.eye(4).repeat_interleave(16, 0).repeat_interleave(3, 1).unsqueeze(1)

        def forward(self, x: Tensor) -> Tensor:
            parts = self.features(x) * self.parts
            return self.sides(parts.flatten(2).unflatten(1, (4, 16)).transpose(1, 2)).flatten(1)

    torch.manual_seed(0)
    model, images = Boxes().eval(), torch.randn(2, 3, 32, 48)
    cam = torchext.CAM(model, size=None)
    assert cam(images, 1).shape == (2, 8, 12)
    assert cam.layers == ("features",)
    with pytest.raises(ValueError, match=r"layer: expected an output .* got \(B, 1, 4, 96\) from 'sides'"):
        torchext.CAM(model, "sides")(images, 1)


def test_a_single_position_is_no_grid() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)).eval()
    with pytest.raises(ValueError, match=r"layer: expected an output .* got \(B, 8, 1, 1\) from '1'"):
        torchext.CAM(model, "1")(torch.randn(2, 3, 16, 16), 1)


def test_a_constant_sample_of_integers_is_changed() -> None:
    class Bytes(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = pooled(nn.Conv2d(3, 8, 4, 4), 8)

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x / 255)

    images = torch.zeros(2, 3, 32, 48, dtype=torch.uint8)
    assert torchext.CAM(Bytes().eval(), "body.0", size=None)(images, 1).shape == (2, 8, 12)
    words = torch.full((2, 20), 7)
    assert torchext.CAM(Text().eval(), "encoder.layers.1.norm1")(words, 1).shape == (2, 20)


def test_another_target_may_depend_on_another_layer() -> None:
    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = pooled(nn.Conv2d(3, 8, 4, 4), 8), pooled(nn.Conv2d(3, 8, 4, 4), 8)

        def forward(self, x: Tensor) -> Tensor:
            return torch.cat([self.first(x), self.second(x)], 1)

    model, images = Branches().eval(), torch.randn(2, 3, 16, 16)
    cam = torchext.CAM(model, relu=False)
    assert cam(images, 7).any()
    assert cam.layers == ("second.0",)
    torch.testing.assert_close(cam(images, 2), torchext.CAM(model, "first.0", relu=False)(images, 2))
    assert cam.layers == ("first.0",)


def test_a_pooled_vector_is_no_sequence_of_tokens() -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 768, 32, 32), tokens(), nn.LayerNorm(768), Fn(lambda x: x.mT), nn.AdaptiveAvgPool1d(1),
        nn.Flatten(), nn.Linear(768, 5),
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 224, 224)
    cam = torchext.CAM(model, size=None)
    assert cam(images, 1).shape == (2, 7, 7)
    assert cam.layers == ("3",)
    torch.testing.assert_close(torchext.CAM(model, "0", size=None)(images, 1).shape, cam(images, 1).shape)
    with pytest.raises(ValueError, match=r"layer: expected an output .* got \(B, 768, 1\) from '4'"):
        torchext.CAM(model, "4")(images, 1)


class TwoHeads(nn.Module):
    """Scores in a mapping, next to those of another head, whose layers run last."""

    def __init__(self, of_map: bool) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.ReLU())
        self.head = nn.Conv2d(8, 5, 1)
        self.auxiliary = nn.Conv2d(8, 6, 1)
        self.of_map = of_map

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        features = self.body(x)
        outputs = {"logits": self.head(features), "auxiliary": self.auxiliary(features)}
        return outputs if self.of_map else {name: output.mean((2, 3)) for name, output in outputs.items()}


def test_layers_of_another_head_are_not_found() -> None:
    images = torch.randn(2, 3, 32, 32)
    cam = torchext.CAM(TwoHeads(of_map=False).eval())
    assert cam(images).shape == (2, 32, 32)
    assert cam.layers == ("head",)
    cam = torchext.CAM(TwoHeads(of_map=True).eval())
    assert cam(images, lambda output: output["logits"][:, 1].mean((1, 2))).shape == (2, 32, 32)
    assert cam.layers == ("body",)


class Noisy(nn.Module):
    """Tokens with random noise, in whatever mode."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.encoder, self.head = nn.Conv2d(3, 32, 16, 16), encoder(32), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        patches = self.embed(x).flatten(2).mT
        return self.head(self.encoder(patches + 10 * torch.randn_like(patches)).mean(1))


def test_random_numbers_do_not_hide_the_grid() -> None:
    cam = torchext.CAM(Noisy().eval(), size=None)
    state = torch.get_rng_state()
    assert cam(torch.randn(1, 3, 64, 96, generator=torch.Generator().manual_seed(0)), 1).shape == (1, 4, 6)
    assert cam.layers == ("encoder",)
    assert torch.equal(torch.get_rng_state(), state)


def test_a_layer_whose_gradients_are_0_is_not_found() -> None:
    class Multiplied(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.unused, self.head = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 8, 1), nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.body(x)
            return self.head((maps + 0.0 * self.unused(maps)).mean((2, 3)))

    cam = torchext.CAM(Multiplied().eval())
    assert cam(torch.randn(2, 3, 16, 16), 1).any()
    assert cam.layers == ("body",)


def test_a_constant_map_is_not_found() -> None:
    class Positions(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features = nn.Conv2d(3, 8, 4, 4)
            self.positions = Fn(lambda maps: torch.arange(maps[0].numel()).view_as(maps[0]).expand_as(maps) / 100)
            self.head = nn.Linear(8, 5)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.features(x)
            return self.head((maps * self.positions(maps)).mean((2, 3)))

    cam = torchext.CAM(Positions().eval())
    assert cam(torch.randn(2, 3, 16, 24), 1).any()
    assert cam.layers == ("features",)


def test_targets_of_every_form_find_the_layer() -> None:
    images = torch.randn(2, 3, 16, 16)
    for targets in ([torch.tensor([0, 1]), torch.tensor([2, 3])], [[0, 1], [2, 3]], torch.tensor([1, 2]), [1, 2], 1):
        assert torchext.CAM(TokenModel().eval())(images, targets).shape[-3:] == (2, 16, 16)
    with pytest.raises(ValueError, match="targets: expected the same number for each sample, got a ragged list"):
        torchext.CAM(TokenModel().eval())(images, [[0], [1, 2]])


def test_a_model_may_keep_a_tensor_of_the_size_of_the_batch() -> None:
    class Cached(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.cache = TokenModel(), None

        def forward(self, x: Tensor) -> Tensor:
            if self.cache is None:
                self.cache = torch.ones(len(x), 1)
            return self.body(x) * self.cache

    model, images = Cached().eval(), torch.randn(3, 3, 16, 16)
    assert torchext.CAM(model)(images, 1).shape == (3, 16, 16)
    assert model(images).shape == (3, 5)


def test_a_model_for_one_batch_size() -> None:
    class Fixed(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = TokenModel()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.view(4, 3, 16, 16))

    cam = torchext.CAM(Fixed().eval(), size=None)
    assert cam(torch.randn(4, 3, 16, 16)).shape == (4, 4, 4)
    assert cam.layers == ("body.blocks.1.norm1",)


@pytest.mark.parametrize("method", ["gradcam", "layercam", "scorecam", "ablationcam", "eigencam"])
def test_a_function_makes_maps_of_an_output(method: Any) -> None:
    model, images = AmongOthers(1, 0).eval(), torch.randn(2, 3, 64, 96)
    known, reshaped = (
        torchext.CAM(model, "encoder", method=method, reshape=reshape)
        for reshape in (None, lambda output: output[:, 1:].mT.unflatten(2, (4, 6)))
    )
    targets = [[1, 2], [0, 4]]
    torch.testing.assert_close(reshaped(images, targets), known(images, targets))


def test_a_function_makes_maps_of_tokens_in_any_order() -> None:
    model, images = Windows().eval(), torch.randn(2, 3, 64, 96)

    def maps(output: Tensor) -> Tensor:
        return output.view(2, 2, 3, 2, 2, 32).permute(0, 5, 1, 3, 2, 4).reshape(2, 32, 4, 6)

    cam = torchext.CAM(model, "encoder", reshape=maps)
    assert cam(images, 1).shape == (2, 64, 96)
    one = torchext.CAM(model, "encoder", reshape=maps, method="ablationcam", size=None)
    with pytest.raises(RuntimeError):  # the function is for two samples, and the method runs single ones
        one(images, 1)

    def of_any_batch(output: Tensor) -> Tensor:
        return output.view(-1, 2, 3, 2, 2, 32).permute(0, 5, 1, 3, 2, 4).reshape(-1, 32, 4, 6)

    options: dict[str, Any] = {"method": "ablationcam", "size": None, "relu": False}
    ablation = torchext.CAM(model, "encoder", reshape=of_any_batch, **options)(images, 1)
    with torch.no_grad():
        scores = model(images)[:, 1]
        weights, outputs = [], list[Tensor]()
        for channel in range(32):

            def without(module: nn.Module, args: Any, output: Tensor, channel: int = channel) -> Tensor:
                outputs.append(output)
                return output * (torch.arange(32) != channel)

            handle = model.encoder.register_forward_hook(without)
            weights.append((scores - model(images)[:, 1]) / scores.abs())
            handle.remove()
    expected = torchext.cam_pool(of_any_batch(outputs[0]), weights=torch.stack(weights, 1), relu=False)
    torch.testing.assert_close(ablation, expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("reshape", "error", "message"),
    [
        (
            lambda output: output.sum((1, 2)),
            ValueError,
            r"reshape: expected a function .* got \(2,\)",
        ),
        (lambda output: output.long(), TypeError, "reshape: expected a function that returns a float tensor"),
        (3, TypeError, "reshape: expected a function, got int"),
    ],
)
def test_wrong_functions(reshape: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.CAM(AmongOthers(1, 0).eval(), "encoder", reshape=reshape)(torch.randn(2, 3, 32, 32), 1)


class WithMetadata(nn.Module):
    """Scores of an image and numbers, which are keyword arguments."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 8, 3, 2, 1), nn.Linear(10, 5)

    def forward(self, *, image: Tensor, numbers: Tensor) -> dict[str, Tensor]:
        return {"out": self.head(torch.cat([self.body(image).relu().mean((2, 3)), numbers], 1))}


def test_a_function_calls_a_model_with_any_input() -> None:
    model = WithMetadata().eval()
    input = {"image": torch.randn(4, 3, 32, 32), "numbers": torch.randn(4, 2)}

    def forward(model: Any, input: Any) -> Any:
        return model(**input)["out"]

    cam = torchext.CAM(model, forward=forward, size=(32, 32))
    numbers = input["numbers"]
    expected = torchext.CAM(model, "body", forward=lambda model, image: model(image=image, numbers=numbers)["out"])
    torch.testing.assert_close(cam(input, 1), expected(input["image"], 1))
    assert repr(cam) == "CAM(WithMetadata, layer='body', method='gradcam')"
    with pytest.raises(ValueError, match=r"size: expected a size or None for maps \(16, 16\) of 'body'"):
        torchext.CAM(model, forward=forward)(input, 1)
    with pytest.raises(TypeError, match="input: expected a tensor, got dict"):
        torchext.CAM(model, forward=forward, method="scorecam", size=None)(input, 1)
