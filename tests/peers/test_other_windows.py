"""Windows compared with kornia, SAHI, TorchIO and diffusers: what docs/migration/ says about each.

A library that is not installed is skipped. `make peers` installs all but TorchIO, which requires SimpleITK (260 MB).
"""

from __future__ import annotations

import inspect
import random
import re
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import torchext
from tests import ROOT


def _page(name: str) -> str:
    return (ROOT / "docs" / "migration" / f"{name}.md").read_text(encoding="utf-8")


def _unnamed(page: str, replaced: Callable[..., Any]) -> set[str]:
    """The arguments of a function that a page does not name."""
    named = {word for code in re.findall("`(.+?)`", _page(page)) for word in re.findall(r"\w+", code)}
    return set(inspect.signature(replaced).parameters) - {"self"} - named


def _position_dependent(windows: Tensor) -> Tensor:
    """The result depends on the position in the window, so that wrong weights or windows change it."""
    return windows.cumsum(-1) * torch.linspace(0, 1, windows.shape[2]).view(-1, *[1] * (windows.dim() - 3))


# kornia


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [((4, 4), (4, 4), 0), ((5, 3), (2, 3), (1, 2)), ((6, 6), (3, 2), (3, 0))]
)
def test_kornia_extracts_and_merges_the_same_windows(
    size: tuple[int, int], stride: tuple[int, int], padding: int | tuple[int, int]
) -> None:
    kornia = pytest.importorskip("kornia.contrib")
    image = torch.rand(2, 3, 24, 28)
    patches = kornia.extract_tensor_patches(image, size, stride, padding)
    windows = torchext.extract_windows(image, size, stride, padding=padding)
    assert torch.equal(windows.flatten(1, 2), patches)
    theirs = kornia.combine_tensor_patches(patches, (24, 28), size, stride, unpadding=padding)
    ours = torchext.merge_windows(patches.unflatten(1, windows.shape[1:3]), (24, 28), stride, padding=padding)
    torch.testing.assert_close(ours, theirs)


def test_kornia_pads_both_sides_to_as_many_windows() -> None:
    kornia = pytest.importorskip("kornia.contrib")
    image = torch.rand(1, 1, 21, 30)
    patches = kornia.extract_tensor_patches(image, 8, 8, allow_auto_padding=True)
    assert torchext.extract_windows(image, (8, 8), partial="pad").flatten(1, 2).shape == patches.shape
    top, bottom, left, right = kornia.compute_padding((21, 30), 8)
    padded = F.pad(image, (left, right, top, bottom))
    assert torch.equal(torchext.extract_windows(padded, (8, 8)).flatten(1, 2), patches)


def test_the_page_names_every_argument_of_kornia() -> None:
    kornia = pytest.importorskip("kornia.contrib")
    assert _unnamed("kornia", kornia.extract_tensor_patches) == set()
    assert _unnamed("kornia", kornia.combine_tensor_patches) == set()
    assert f"kornia {version('kornia')}" in _page("kornia")


# SAHI


def test_sahi_has_the_same_slices() -> None:
    slicing = pytest.importorskip("sahi.slicing")
    pick = random.Random(0)
    for _ in range(500):
        height, width = pick.randint(40, 400), pick.randint(40, 400)
        h, w = pick.randint(8, height), pick.randint(8, width)
        ratios = pick.choice([0, 0.1, 0.2, 0.33, 0.5]), pick.choice([0, 0.1, 0.2, 0.25, 0.5])
        boxes = slicing.get_slice_bboxes(height, width, h, w, False, *ratios)
        overlap = int(ratios[0] * h), int(ratios[1] * w)
        grid = torchext.window_grid((height, width), (h, w), overlap)
        assert [(y, x) for x, y, _, _ in boxes] == [tuple(offsets) for offsets in grid.tolist()]


def test_sahi_rounds_the_overlap_down_and_a_fraction_rounds_the_step_down() -> None:
    slicing = pytest.importorskip("sahi.slicing")
    boxes = slicing.get_slice_bboxes(512, 2000, 512, 512, False, 0.2, 0.2)
    assert boxes[1][0] == 410
    assert torchext.window_grid((512, 2000), (512, 512), 0.2)[1].tolist() == [0, 409]


def test_the_page_names_every_argument_of_sahi() -> None:
    predict = pytest.importorskip("sahi.predict")
    assert _unnamed("sahi", predict.get_sliced_prediction) == set()
    assert f"SAHI {version('sahi')}" in _page("sahi")


# TorchIO


def _torchio(volume: Tensor, size: Any, overlap: Any, mode: str, model: Callable[[Tensor], Tensor]) -> Tensor:
    tio = pytest.importorskip("torchio")
    sampler = tio.GridSampler(tio.Subject(scan=tio.ScalarImage(tensor=volume)), size, overlap)
    aggregator = tio.GridAggregator(sampler, mode)
    for batch in tio.SubjectsLoader(sampler, batch_size=3):
        aggregator.add_batch(model(batch["scan"][tio.DATA]), batch[tio.LOCATION])
    return aggregator.get_output_tensor()


SIZE, OVERLAP = (16, 20, 12), (4, 8, 6)


def _hann(size: tuple[int, ...]) -> Tensor:
    """The weights of TorchIO."""
    weight = torch.ones(())
    for n in size:
        weight = weight[..., None] * torch.hann_window(n + 2, periodic=False)[1:-1]
    return weight


@pytest.mark.parametrize("mode", ["average", "hann"])
def test_torchio_merges_to_the_same_result(mode: str) -> None:
    volume = torch.rand(1, 40, 50, 44)
    theirs = _torchio(volume, SIZE, OVERLAP, mode, _position_dependent)
    weight = _hann(SIZE) if mode == "hann" else None
    ours = torchext.sliding_window(_position_dependent, volume[None], SIZE, overlap=OVERLAP, weight=weight)
    torch.testing.assert_close(ours[0], theirs)


def test_torchio_shares_differ_by_as_much_as_the_page_says() -> None:
    pytest.importorskip("torchio")
    theirs, ours = _hann((64,)), torchext.window_weight((64,), "hann")
    shares = [weight[32:] / (weight[32:] + weight[:32]) for weight in (theirs, ours)]
    assert f"differs by up to {float((shares[0] - shares[1]).abs().max()):.3f}" in _page("torchio")


def test_torchio_crops_to_the_result_of_the_network_on_the_whole_volume() -> None:
    model = torch.nn.Conv3d(1, 1, 5, padding=2).requires_grad_(False)
    volume = torch.rand(1, 40, 50, 44)
    theirs = _torchio(volume, SIZE, 4, "crop", model)
    ours = torchext.sliding_window(model, volume[None], SIZE, halo=2, overlap=0)[0]
    inside = (slice(None), *[slice(2, -2)] * 3)
    torch.testing.assert_close(ours[inside], theirs[inside])
    torch.testing.assert_close(ours, model(volume[None])[0])


def test_the_page_names_every_argument_of_torchio() -> None:
    tio = pytest.importorskip("torchio")
    for replaced in (tio.GridSampler, tio.GridAggregator, tio.GridAggregator.add_batch):
        assert _unnamed("torchio", replaced) == set()
    assert f"TorchIO {version('torchio')}" in _page("torchio")


# diffusers


class _OneTile(torch.nn.Module):
    """A decoder of 8 pixels for each latent that gives ones for one of its calls, and zeros for the others."""

    def __init__(self, call: int) -> None:
        super().__init__()
        self.call, self.calls = call, 0

    def forward(self, latents: Tensor) -> Tensor:
        self.calls += 1
        height, width = latents.shape[2:]
        return torch.full((1, 1, 8 * height, 8 * width), float(self.calls - 1 == self.call))


def _vae(decoder: torch.nn.Module | None = None) -> Any:
    diffusers = pytest.importorskip("diffusers")
    torch.manual_seed(0)
    options = {"down_block_types": ("DownEncoderBlock2D",) * 4, "up_block_types": ("UpDecoderBlock2D",) * 4}
    widths = (4, 4, 4, 8)
    vae = diffusers.AutoencoderKL(
        block_out_channels=widths, norm_num_groups=2, layers_per_block=1, sample_size=512, **options
    ).eval()
    if decoder is not None:
        vae.decoder = decoder
    vae.enable_tiling()
    return vae.requires_grad_(False)


def _largest_difference(latents: Tensor, size: tuple[int, int]) -> float:
    """How much the share of the first tile in the result differs."""
    theirs = _vae(_OneTile(0)).decode(latents).sample
    ours = torchext.sliding_window(_OneTile(0), latents, size, weight="linear", batch_size=1)
    return float((theirs - ours).abs().max())


def test_diffusers_shares_differ_by_as_much_as_the_page_says() -> None:
    one_dimension = _largest_difference(torch.zeros(1, 4, 48, 112), (48, 64))
    assert f"the share of one differs by up to {one_dimension:.2f}" in _page("diffusers")
    where_four_meet = _largest_difference(torch.zeros(1, 4, 112, 112), (64, 64))
    assert f"the shares differ by up to {where_four_meet:.2f}" in _page("diffusers")


def test_diffusers_has_as_many_tiles_as_the_page_says() -> None:
    decoder = _OneTile(0)
    _vae(decoder).decode(torch.zeros(1, 4, 112, 112))
    assert "112×112 latents are 4 tiles here" in _page("diffusers")
    assert f"and {decoder.calls} there" in _page("diffusers")
    assert len(torchext.window_grid((112, 112), (64, 64), 0.25)) == 4


def test_diffusers_gives_the_same_where_one_tile_is_all_there_is() -> None:
    """The calls of the page, in the corner that only the first tile covers: the second one begins at 16 latents."""
    vae, latents, images = _vae(), torch.randn(1, 4, 80, 80), torch.randn(1, 3, 640, 640)
    theirs = vae.decode(latents).sample
    ours = torchext.sliding_window(lambda z: vae.decode(z).sample, latents, 64, weight="linear", batch_size=1)
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[..., :128, :128], theirs[..., :128, :128])
    theirs = vae.encode(images).latent_dist.parameters
    ours = torchext.sliding_window(
        lambda x: vae.encode(x).latent_dist.parameters, images, 512, scale=1 / 8, weight="linear", batch_size=1
    )
    assert ours.shape == theirs.shape
    torch.testing.assert_close(ours[..., :16, :16], theirs[..., :16, :16])


def test_the_page_names_the_attributes_of_diffusers() -> None:
    vae = _vae()
    for name in ("tile_sample_min_size", "tile_latent_min_size", "tile_overlap_factor", "use_tiling", "use_slicing"):
        assert hasattr(vae, name)
        assert f"`{name}`" in _page("diffusers")
    assert f"diffusers {version('diffusers')}" in _page("diffusers")
