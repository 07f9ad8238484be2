"""Tests of CAM: its maps for layers and targets of every kind, and that the model is unchanged."""

from __future__ import annotations

import copy
import dataclasses
import sys
import threading
import warnings
from collections.abc import Callable
from contextlib import nullcontext
from types import MappingProxyType, ModuleType
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import torchext
from tests.models import (
    Blind,
    ChannelsLast,
    KeepsBatchSize,
    ReadsAValue,
    SkipsByConcatenation,
    TokenModel,
    Twice,
    classifier,
)
from torchext.cam.explain import GRADIENT_METHODS, METHODS, PERTURBATION_METHODS
from torchext.cam.perturbation import _Ablation

IMAGES = torch.randn(3, 3, 12, 8, generator=torch.Generator().manual_seed(1))


def by_hand(head: Callable[[Tensor], Tensor], activations: Tensor, targets: Any, **options: Any) -> Tensor:
    """cam_pool of the gradients that autograd gives for the rest of the model."""
    leaf = activations.detach().requires_grad_()
    scores = head(leaf.clone())
    (gradients,) = torch.autograd.grad(scores[range(len(scores)), targets].sum(), leaf)
    return torchext.reference.cam_pool(leaf.detach(), gradients, **options)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_gradient_methods_equal_cam_pool_of_the_layer(method: Any) -> None:
    model, targets = classifier(), [1, 0, 4]
    with torch.no_grad():
        activations = model[:4](IMAGES)
    for relu, normalize in ((True, "max"), (False, "minmax"), (False, None)):
        options: dict[str, Any] = {"method": method, "relu": relu, "normalize": normalize}
        cam = torchext.CAM(model, "3", **options)
        expected = by_hand(model[4:], activations, targets, size=(12, 8), **options)
        torch.testing.assert_close(cam(IMAGES, targets), expected)


def test_every_form_of_targets() -> None:
    model = classifier()
    cam = torchext.CAM(model, "3", relu=False)
    one = [cam(IMAGES, target) for target in range(5)]
    top = cam(IMAGES)
    assert torch.equal(cam.targets, cam.output.argmax(1))
    torch.testing.assert_close(top, torch.stack([one[int(t)][i] for i, t in enumerate(cam.targets)]))
    expected = torch.stack([one[2][0], one[0][1], one[4][2]])
    for targets in ([2, 0, 4], (2, 0, 4), torch.tensor([2, 0, 4]), torch.tensor([2, 0, 4], dtype=torch.uint8)):
        torch.testing.assert_close(cam(IMAGES, targets), expected)
        assert cam.targets.tolist() == [2, 0, 4]
    several = [[2, 1], [0, 1], [4, 3]]
    for targets in (several, torch.tensor(several), list(torch.tensor(several))):
        maps = cam(IMAGES, targets)
        assert maps.shape == (2, 3, 12, 8)
        torch.testing.assert_close(maps[0], expected)
        torch.testing.assert_close(maps[1], torch.stack([one[1][0], one[1][1], one[3][2]]))
        assert cam.targets.tolist() == several
    torch.testing.assert_close(cam(IMAGES, lambda scores: scores[:, 3]), one[3])
    torch.testing.assert_close(cam(IMAGES, lambda scores: scores[:, 1:3].T), torch.stack(one[1:3]))
    torch.testing.assert_close(cam(IMAGES[:1], lambda scores: scores[0, 3]), one[3][:1])


@pytest.mark.parametrize("method", METHODS)
def test_several_targets_equal_single_targets(method: Any) -> None:
    cam = torchext.CAM(classifier(), "3", method=method)
    together = cam(IMAGES, [[0, 1, 2]] * 3)
    torch.testing.assert_close(together, torch.stack([cam(IMAGES, target) for target in range(3)]))


@pytest.mark.parametrize("method", METHODS)
def test_a_batch_equals_its_single_samples(method: Any) -> None:
    cam = torchext.CAM(classifier(), "3", method=method)
    torch.testing.assert_close(cam(IMAGES, 1), torch.cat([cam(image[None], 1) for image in IMAGES]))


@pytest.mark.parametrize(
    ("targets", "error", "message"),
    [
        (5, IndexError, r"targets: expected classes in \[0, 5\), got \[5, 5, 5\]"),
        ([1, 2], ValueError, "targets: expected a class or 3 of them, got shape \\(2,\\)"),
        ([[1], [2, 3], [0]], ValueError, "targets: expected the same number for each sample, got a ragged list"),
        ([[1, 2], 3, 0], ValueError, "ragged"),
        ([torch.tensor([1, 2]), torch.tensor([3]), torch.tensor([0])], ValueError, r"ragged list \[\[1, 2\], \[3\]"),
        ([[], [], []], ValueError, r"targets: expected a class or 3 of them, got \[\[\], \[\], \[\]\]"),
        ([], ValueError, r"targets: expected a class or 3 of them, got \[\]"),
        (torch.zeros(3, 0).long(), ValueError, r"got shape \(3, 0\)"),
        (1.5, TypeError, "targets: expected an integer dtype, got torch.float32"),
        (True, TypeError, "targets: expected an integer dtype, got torch.bool"),
        (torch.tensor([True, False, True]), TypeError, "targets: expected an integer dtype, got torch.bool"),
        ("cat", TypeError, "targets: expected an int, one or several for each sample, or a function, got 'cat'"),
        (lambda scores: scores.sum(), ValueError, r"targets: .* \(3,\) or \(T, 3\), got \(\)"),
        (lambda scores: scores.new_zeros(0, 3), ValueError, r"targets: .* \(3,\) or \(T, 3\), got \(0, 3\)"),
        (lambda scores: scores.argmax(1), TypeError, "targets: expected a function that returns a float tensor"),
    ],
)
def test_wrong_targets(targets: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.CAM(classifier(), "3")(IMAGES, targets)


def test_a_segmentation_model_is_explained_by_a_function() -> None:
    class Segmenter(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.features, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Conv2d(6, 4, 1)

        def forward(self, x: Tensor) -> dict[str, Tensor]:
            return {"out": self.head(self.features(x).relu())}

    model = Segmenter().eval()

    def pixels_of_class_2(output: dict[str, Tensor]) -> Tensor:
        return output["out"][:, 2].mean((1, 2))

    cam = torchext.CAM(model, "features", size=None)
    maps = cam(IMAGES, pixels_of_class_2)
    activations = model.features(IMAGES).detach().requires_grad_()
    (gradients,) = torch.autograd.grad(model.head(activations.relu())[:, 2].mean((1, 2)).sum(), activations)
    torch.testing.assert_close(maps, torchext.reference.cam_pool(activations.detach(), gradients))
    assert cam.targets is pixels_of_class_2
    assert not cam.output["out"].requires_grad
    with pytest.raises(ValueError, match=r"model: expected float scores \(B, classes\), got dict; .* a function"):
        cam(IMAGES)


@pytest.mark.parametrize("method", ["gradcam", *PERTURBATION_METHODS])
@pytest.mark.parametrize("form", ["a dict for each sample", "queries first"])
def test_an_output_need_not_begin_with_the_batch(method: Any, form: str) -> None:
    """Detectors return a list of dicts with the boxes of one image each, or a tensor (queries, batch, classes)."""

    class Detector(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.classifier = classifier()

        def forward(self, x: Tensor) -> Any:
            scores = self.classifier(x)
            if form == "queries first":
                return scores.expand(7, *scores.shape)
            return [{"boxes": torch.zeros(9, 4), "scores": one} for one in scores]

    def score(output: Any) -> Tensor:
        return output[0][:, 2] if isinstance(output, Tensor) else torch.stack([one["scores"][2] for one in output])

    model = Detector().eval()
    maps = torchext.CAM(model, "classifier.3", method=method, batch_size=4)(IMAGES, score)
    torch.testing.assert_close(maps, torchext.CAM(model.classifier, "3", method=method)(IMAGES, 2))


def test_several_layers_are_fused() -> None:
    model = classifier()
    first, second = (torchext.CAM(model, layer)(IMAGES, 1) for layer in ("0", "3"))
    for layers in (["0", "3"], (model[3], "0")):
        torch.testing.assert_close(torchext.CAM(model, layers)(IMAGES, 1), (first + second) / 2)
    torch.testing.assert_close(torchext.CAM(model, ["0", "3"], fuse="max")(IMAGES, 1), first.maximum(second))
    assert torchext.CAM(model, (model[3], "0")).layers == ("3", "0")


@pytest.mark.parametrize("method", METHODS)
def test_the_last_call_of_a_layer_is_explained(method: Any) -> None:
    model = Twice().eval()
    apart = copy.deepcopy(model)
    apart.last = nn.ReLU(inplace=True)
    apart.forward = lambda x: apart.head(apart.last(apart.second(apart.act(apart.first(x)))).mean((2, 3)))
    expected = torchext.CAM(apart, "last", method=method)(IMAGES, 2)
    torch.testing.assert_close(torchext.CAM(model, "act", method=method)(IMAGES, 2), expected)


def test_one_forward_pass_for_any_number_of_targets() -> None:
    model, passes = classifier(), 0

    def count(*_: Any) -> None:
        nonlocal passes
        passes += 1

    cam = torchext.CAM(model, "3")
    cam(IMAGES, 1)  # the first call also finds the layout of the output
    model[0].register_forward_hook(count)
    cam(IMAGES, [list(range(5))] * 3)
    cam(torch.randn(3, 3, 24, 8), [list(range(5))] * 3)  # of another size
    torchext.CAM(model, "3", method="layercam")(IMAGES, 1)
    assert passes == 3


def test_targets_are_differentiated_one_by_one_if_vmap_fails() -> None:
    class Scale(torch.autograd.Function):
        @staticmethod
        def forward(ctx: Any, x: Tensor) -> Tensor:
            return x * 2

        @staticmethod
        def backward(ctx: Any, grad: Tensor) -> Tensor:
            return grad * (2.0 + 0.0 * float(grad.sum()))  # reads a value, which vmap does not allow

    model = classifier()
    expected = torchext.CAM(model, "3")(IMAGES, [[0, 1]] * 3)
    model[5].register_forward_hook(lambda module, args, output: Scale.apply(output))
    torch.testing.assert_close(torchext.CAM(model, "3")(IMAGES, [[0, 1]] * 3), expected)


def test_tokens_are_arranged_on_their_grid() -> None:
    for prefix in (1, 5):
        model = TokenModel(prefix).eval()
        images = torch.randn(2, 3, 24, 16)
        cam = torchext.CAM(model, "blocks.1.norm1", size=None)
        maps = cam(images, 1)
        with torch.no_grad():
            patches = model.embed(images).flatten(2).transpose(1, 2)
            tokens = model.blocks[0](torch.cat([model.tokens.expand(2, -1, -1), patches], 1))
        leaf = model.blocks[1].norm1(tokens).detach().requires_grad_()
        x = tokens + model.blocks[1].attn(leaf, leaf, leaf, need_weights=False)[0]
        scores = model.head(model.norm(x + model.blocks[1].mlp(model.blocks[1].norm2(x)))[:, 0])
        (gradients,) = torch.autograd.grad(scores[:, 1].sum(), leaf)

        def on_grid(values: Tensor, prefix: int = prefix) -> Tensor:
            return values[:, prefix:].transpose(1, 2).unflatten(2, (6, 4))

        torch.testing.assert_close(maps, torchext.reference.cam_pool(on_grid(leaf.detach()), on_grid(gradients)))


def test_a_layer_after_which_only_the_class_token_counts_raises() -> None:
    model = TokenModel().eval()
    message = "layer: expected an earlier layer, such as 'blocks.1.norm1', got 'blocks.1', .* only on the class token"
    with pytest.raises(ValueError, match=message):
        torchext.CAM(model, "blocks.1")(torch.randn(2, 3, 16, 16))


@pytest.mark.parametrize("shape", [(12, 8), (24, 24)])
def test_channels_last_maps_are_recognised(shape: tuple[int, int]) -> None:
    model, images = ChannelsLast().eval(), torch.randn(2, 3, *shape)
    with torch.no_grad():
        maps = model.norm(model.embed(images).permute(0, 2, 3, 1)).permute(0, 3, 1, 2)
    expected = by_hand(lambda x: model.head(x.mean((2, 3))), maps, [1, 1], size=shape)
    cam = torchext.CAM(model)
    torch.testing.assert_close(cam(images, 1), expected)
    assert cam.layers == ("norm",)


class OfUnknownType(nn.Module):
    """A map whose layout no module defines: it has another number of channels than the layers before it."""

    def __init__(self, channels: int, kernel: tuple[int, ...], channels_last: bool) -> None:
        super().__init__()
        convolution = {1: nn.Conv1d, 2: nn.Conv2d, 3: nn.Conv3d}[len(kernel)]
        self.stem, self.map = convolution(2, channels, kernel, kernel), nn.Identity()
        self.head = nn.Linear(channels + 1, 5)
        self.channels_last = channels_last

    def forward(self, x: Tensor) -> Tensor:
        maps = self.stem(x)
        maps = self.map(torch.cat([maps, maps[:, :1]], 1).movedim(1, -1 if self.channels_last else 1))
        return self.head((maps.movedim(-1, 1) if self.channels_last else maps).flatten(2).mean(2))


@pytest.mark.parametrize("channels_last", [False, True], ids=["channels first", "channels last"])
@pytest.mark.parametrize(
    ("image", "kernel", "channels"),
    [
        ((24, 24), (2, 2), 11),  # as many channels as rows
        ((12, 8), (2, 1), 15),
        ((16, 64), (1, 16), 7),
        ((40,), (4,), 9),
        ((8, 32, 32), (2, 8, 8), 12),
    ],
)
def test_the_layout_of_a_map_of_unknown_type_is_found(
    image: tuple[int, ...], kernel: tuple[int, ...], channels: int, channels_last: bool
) -> None:
    torch.manual_seed(0)
    model = OfUnknownType(channels, kernel, channels_last).eval()
    images = torch.randn(2, 2, *image)
    with torch.no_grad():
        stem = model.stem(images)
    expected = by_hand(
        lambda x: model.head(x.flatten(2).mean(2)), torch.cat([stem, stem[:, :1]], 1), [1, 1], size=image
    )
    torch.testing.assert_close(torchext.CAM(model, "map")(images, 1), expected)


class Sequences(nn.Module):
    """Computes tokens ``(B, N, 32)`` of a signal or of a text."""

    def __init__(self, stem: nn.Module) -> None:
        super().__init__()
        self.stem = stem
        self.block = nn.TransformerEncoderLayer(32, 4, 64, batch_first=True, dropout=0.0)
        self.act, self.head = nn.GELU(), nn.Linear(32, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.stem(x)
        return self.head(self.act(self.block(tokens if x.dim() == 2 else tokens.transpose(1, 2))).mean(1))


@pytest.mark.parametrize(
    ("stem", "input", "tokens"),
    [
        (nn.Conv1d(1, 32, 40, 40), torch.randn(2, 1, 4000), 100),
        (nn.Conv1d(1, 32, 40, 40), torch.randn(2, 1, 640), 16),
        (nn.Conv1d(1, 32, 40, 40), torch.randn(2, 1, 1280), 32),  # as many tokens as channels
        (nn.Embedding(50, 32), torch.randint(0, 50, (2, 7)), 7),
    ],
)
def test_sequences_of_tokens_are_channels_last(stem: nn.Module, input: Tensor, tokens: int) -> None:
    model = Sequences(stem).eval()
    whole = model.block(stem(input) if input.dim() == 2 else stem(input).transpose(1, 2))
    expected = by_hand(lambda x: model.head(model.act(x.transpose(1, 2)).mean(1)), whole.transpose(1, 2), [1, 1])
    assert expected.shape == (2, tokens)
    for layer in ("block", "block.norm2"):
        torch.testing.assert_close(torchext.CAM(model, layer, size=None)(input, 1), expected)
    found = torchext.CAM(model, size=None)
    assert found(input, 1).shape == torchext.CAM(model, "stem", size=None)(input, 1).shape == (2, tokens)
    assert found.layers == ("act",)


def test_a_recurrent_layer_is_channels_last() -> None:
    class Recurrent(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.rnn = nn.LSTM(6, 8, bidirectional=True, batch_first=True)
            self.act, self.head = nn.Tanh(), nn.Linear(16, 5)

        def forward(self, x: Tensor) -> Tensor:
            return self.head(self.act(self.rnn(x.transpose(1, 2))[0]).mean(1))

    for layer in ("rnn", "act"):
        assert torchext.CAM(Recurrent().eval(), layer, size=None)(torch.randn(2, 6, 30), 1).shape == (2, 30)


def test_a_gated_convolution_is_channels_first() -> None:
    model = nn.Sequential(nn.Conv1d(2, 16, 3), nn.GLU(1), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    assert torchext.CAM(model, size=None)(torch.randn(2, 2, 30), 1).shape == (2, 28)


def test_a_normalisation_over_several_dimensions_has_no_number_of_channels() -> None:
    model = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.LayerNorm((6, 12, 8)), nn.Flatten()).eval()
    assert torchext.CAM(model, "1", size=None)(IMAGES, 1).shape == (3, 12, 8)


def test_the_layout_of_a_sequence_of_unknown_type_is_found() -> None:
    class Weights(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.act = nn.Parameter(torch.randn(8, 2)), nn.ReLU()

        def forward(self, x: Tensor) -> Tensor:
            return self.act(self.weight @ x).mean(2)

    assert torchext.CAM(Weights().eval(), "act", size=None)(torch.randn(2, 2, 30), 1).shape == (2, 30)


def test_a_convolution_is_channels_first() -> None:
    model = nn.Sequential(nn.Conv1d(2, 4, 3, padding=30), nn.AdaptiveAvgPool1d(1), nn.Flatten()).eval()
    signals = torch.randn(2, 2, 10)
    assert torchext.CAM(model, "0", size=None)(signals, 1).shape == (2, 68)


@pytest.mark.parametrize(
    ("model", "images", "layer"),
    [
        (classifier(), IMAGES, "4"),
        (
            nn.Sequential(nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            IMAGES,
            "0",
        ),
        (TokenModel(), torch.randn(1, 3, 16, 16), "blocks.1.norm1"),
        (Twice(), IMAGES, "act"),
        (nn.Sequential(nn.Conv3d(2, 4, 3), nn.Flatten(), nn.Linear(4 * 4 * 4 * 4, 3)), torch.randn(2, 2, 6, 6, 6), "0"),
        (nn.Sequential(nn.Conv1d(2, 4, 3), nn.AdaptiveMaxPool1d(1), nn.Flatten()), torch.randn(2, 2, 6), "0"),
    ],
)
def test_the_last_layer_with_spatial_dimensions_is_found(model: nn.Module, images: Tensor, layer: str) -> None:
    cam = torchext.CAM(model.eval())
    assert cam.layers == ()
    maps = cam(images, 1)
    assert cam.layers == (layer,)
    assert maps.shape == (images.shape[0], *images.shape[2:])


def test_a_model_without_spatial_dimensions_raises() -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(3 * 12 * 8, 5)).eval()
    with pytest.raises(ValueError, match="layer: expected a model with a layer whose output has spatial dimensions"):
        torchext.CAM(model)(IMAGES)


# A call must leave the model unchanged.


class Disturbed(nn.Module):
    """Changes everything that a forward pass can change: statistics, a counter, random numbers, a cache in a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.body = classifier()
        self.drop = nn.Dropout(0.5)
        self.register_buffer("calls", torch.zeros(()))
        self.register_buffer("cache", torch.zeros(1), persistent=False)
        self.register_buffer("none_yet", None)
        self.register_buffer("edges", torch.eye(2).to_sparse())
        self.register_buffer("rows", torch.arange(3).expand(2, 3))
        self.register_buffer("seen", torch.zeros(2, 3))
        self.register_buffer("seen_transposed", torch.zeros(2, 3).T)
        self.fails = False

    def forward(self, x: Tensor) -> Tensor:
        self.calls += 1
        self.seen[1] += x.detach().mean()
        self.seen_transposed[1] += x.detach().mean()
        self.cache = x.detach().mean((1, 2, 3))
        self.none_yet = self.cache + self.rows.sum()
        self.register_buffer("registered_late", self.cache, persistent=False)
        x = x + 0.1 * torch.randn_like(x)
        scores = self.body(self.drop(x))
        if self.fails:
            raise RuntimeError("the model fails")
        return scores


def everything(model: nn.Module) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """All tensors of a model and the random state; and the rest of the state, with objects by their identity."""
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    named = {**dict(model.named_parameters()), **dict(model.named_buffers())}
    grads = {f"{name}.grad": p.grad for name, p in model.named_parameters() if p.grad is not None}
    tensors = {name: tensor.detach().clone() for name, tensor in {**named, **grads}.items()}
    rest = {
        "objects": {name: id(tensor) for name, tensor in {**named, **grads}.items()},
        "versions": {name: p._version for name, p in model.named_parameters()},
        "requires_grad": [p.requires_grad for p in model.parameters()],
        "modules": [
            (id(m), m.training, sorted(vars(m)), [dict(getattr(m, name)) for name in hooks]) for m in model.modules()
        ],
        "buffers": [(list(m._buffers), set(m._non_persistent_buffers_set)) for m in model.modules()],
        "modes": (torch.is_grad_enabled(), torch.is_inference_mode_enabled(), torch.is_autocast_enabled("cpu")),
    }
    return {**tensors, "random state": torch.get_rng_state()}, rest


@pytest.mark.parametrize("fails", [False, True], ids=["returns", "raises"])
@pytest.mark.parametrize("training", [False, True], ids=["eval", "training"])
@pytest.mark.parametrize("method", ["gradcam", *PERTURBATION_METHODS, "eigencam"])
@pytest.mark.parametrize("layer", [None, "body.3"], ids=["found", "named"])
def test_the_model_is_unchanged(method: Any, training: bool, fails: bool, layer: str | None) -> None:
    model = Disturbed().train(training)
    model.body[0].weight.requires_grad_(False)
    model.body[3].weight.grad = torch.ones_like(model.body[3].weight)
    model.body[1].register_forward_hook(lambda *_: None)
    model.fails = fails
    cam = torchext.CAM(model, layer, method=method, augment=method == "gradcam")
    before = everything(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if fails:
            with pytest.raises(RuntimeError, match="the model fails"):
                cam(IMAGES)
        else:
            with cam as same:
                assert same(IMAGES).shape == (3, 12, 8)
    after = everything(model)
    torch.testing.assert_close(after[0], before[0], rtol=0, atol=0)
    assert after[1] == before[1]


@pytest.mark.filterwarnings("ignore:.*torch.jit.*:DeprecationWarning", "ignore:the model is in training mode")
def test_a_scripted_submodule_is_unchanged() -> None:
    model = nn.Sequential(nn.Conv2d(3, 3, 3), torch.jit.script(classifier())).train()
    before = [buffer.clone() for buffer in model.buffers()]
    assert torchext.CAM(model, "0")(IMAGES, 1).shape == (3, 12, 8)
    torch.testing.assert_close(list(model.buffers()), before, rtol=0, atol=0)


def test_tensors_stored_by_the_model_are_detached_unless_from_the_caller() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.keeps = classifier(), True

        def forward(self, x: Tensor) -> Tensor:
            scores = self.body(x)
            if self.keeps:
                self.scores = scores
            return scores

    model = Keeps().eval()
    torchext.CAM(model, "body.3")(IMAGES, 1)
    assert not model.scores.requires_grad
    torch.testing.assert_close(model.scores, model.body(IMAGES).detach())
    model(IMAGES)
    held, model.keeps = model.scores, False
    torchext.CAM(model, "body.3")(IMAGES, 1)
    assert model.scores is held
    held.sum().backward()


def test_a_graph_of_the_caller_can_be_differentiated_afterwards() -> None:
    model = classifier().train()
    loss = model(IMAGES).sum()
    with pytest.warns(UserWarning, match="training mode"):
        torchext.CAM(model, "3")(IMAGES)
    loss.backward()


def test_training_mode_warns_once() -> None:
    model = classifier().train()
    cam = torchext.CAM(model, "3")
    with pytest.warns(UserWarning, match=r"training mode; call model.eval\(\) first"):
        cam(IMAGES)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        cam(IMAGES)
        torchext.CAM(model.eval(), "3")(IMAGES)


# A call must work in these contexts.


def test_works_without_recorded_gradients() -> None:
    model = classifier()
    expected = torchext.CAM(model, "3")(IMAGES)
    model.requires_grad_(False)
    for context in (torch.no_grad, torch.inference_mode):
        with context():
            images = IMAGES.clone()
            torch.testing.assert_close(torchext.CAM(model, "3")(images), expected)
            itself = torchext.CAM(nn.Sequential(nn.Identity(), model).eval(), "0", size=None)
            assert itself(images, 1).shape == (3, 12, 8)


class FrozenBody(nn.Module):
    """A classifier that runs everything except its head without gradients."""

    def __init__(self, mode: Any) -> None:
        super().__init__()
        self.body, self.mode = classifier(), mode
        self.head = nn.Linear(6, 4)

    def forward(self, x: Tensor) -> Tensor:
        with self.mode():
            maps = self.body[:5](x)
        return self.head(maps.sigmoid().mean((2, 3)))


@pytest.mark.parametrize("layer", ["body.3", "body.0", ["body.0", "body.4"], None], ids=str)
def test_a_layer_that_the_model_runs_without_gradients(layer: Any) -> None:
    model = FrozenBody(nullcontext).eval()
    expected = torchext.CAM(model, layer)(IMAGES, 1)
    model.mode = torch.no_grad
    torch.testing.assert_close(torchext.CAM(model, layer)(IMAGES, 1), expected)
    model.mode = torch.inference_mode
    with pytest.raises(ValueError, match=r"the output of 'body.\d', .* or the model stops .* torch.inference_mode"):
        torchext.CAM(model, layer)(IMAGES, 1)
    assert torch.is_grad_enabled()


@pytest.mark.parametrize("method", METHODS)
def test_works_with_autocast_and_half_precision(method: Any) -> None:
    model = classifier()
    expected = torchext.CAM(model, "3", method=method)(IMAGES, 1)
    with torch.autocast("cpu", torch.bfloat16):
        maps = torchext.CAM(model, "3", method=method)(IMAGES, 1)
    assert maps.dtype == torch.bfloat16
    torch.testing.assert_close(maps.float(), expected, rtol=0.1, atol=0.15)
    for dtype in (torch.bfloat16, torch.float16):
        maps = torchext.CAM(copy.deepcopy(model).to(dtype), "3", method=method)(IMAGES.to(dtype), 1)
        assert maps.dtype == dtype
        torch.testing.assert_close(maps.float(), expected, rtol=0.1, atol=0.15)


def test_a_compiled_model_runs_eagerly() -> None:
    model = classifier()
    expected = torchext.CAM(model, "3")(IMAGES)
    compiled = torch.compile(model, backend="eager")
    compiled(IMAGES)
    for layer in ("3", model[3]):
        torch.testing.assert_close(torchext.CAM(compiled, layer)(IMAGES), expected)
    found = torchext.CAM(compiled)
    found(IMAGES)
    assert found.layers[0].endswith("4")
    model.compile(backend="eager")
    model(IMAGES)
    torch.testing.assert_close(torchext.CAM(model, "3")(IMAGES), expected)


def test_a_call_inside_a_compiled_function_raises() -> None:
    cam = torchext.CAM(classifier(), "3")
    compiled = torch.compile(lambda images: cam(images) * 2, backend="eager")
    with pytest.raises(RuntimeError, match=r"torchext.CAM: expected a call outside of torch.compile, got one inside"):
        compiled(IMAGES)


@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:the model is in training mode")
def test_scripted_and_traced_models_raise() -> None:
    scripted, traced = torch.jit.script(classifier()), torch.jit.trace(classifier(), IMAGES)
    for model in (scripted, traced):
        with pytest.raises(TypeError, match="model: expected a module that runs in Python, got a scripted or traced"):
            torchext.CAM(model)
    around = nn.Sequential(nn.Conv2d(3, 3, 3, padding=1), scripted).eval()
    with pytest.raises(TypeError, match="layer: expected a module that runs in Python, got a scripted or traced"):
        torchext.CAM(around, "1.3")
    found = torchext.CAM(around)
    assert found(IMAGES, 1).shape == (3, 12, 8)
    assert found.layers == ("0",)
    with pytest.raises(ValueError, match="layer: expected a model that calls its modules, got one that"):
        torchext.CAM(torch.export.export(classifier(), (IMAGES,)).module())(IMAGES)


def test_gradients_of_weights_created_in_inference_mode_raise() -> None:
    with torch.inference_mode():
        model = classifier()
    assert torchext.CAM(model, "3", method="scorecam")(IMAGES, 1).shape == (3, 12, 8)
    with pytest.raises(ValueError, match=r"model: .* not created in torch.inference_mode, .* use copy.deepcopy"):
        torchext.CAM(model, "3")(IMAGES, 1)
    assert torchext.CAM(copy.deepcopy(model), "3")(IMAGES, 1).shape == (3, 12, 8)


def test_other_outputs_of_a_layer_are_passed_on() -> None:
    class Pair(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv = nn.Conv2d(3, 6, 3, padding=1)

        def forward(self, x: Tensor) -> tuple[Tensor, int]:
            return self.conv(x), 7

    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.pair, self.head = Pair(), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            maps, seven = self.pair(x)
            assert seven == 7
            return self.head(maps.mean((2, 3)))

    model = Model().eval()
    torch.testing.assert_close(torchext.CAM(model, "pair")(IMAGES, 1), torchext.CAM(model, "pair.conv")(IMAGES, 1))


@pytest.mark.parametrize(
    ("options", "call", "error", "message"),
    [
        (
            {"layer": "nine"},
            IMAGES,
            ValueError,
            "layer: .* of the model, whose children are 0, 1.*, got 'nine'",
        ),
        ({"layer": []}, IMAGES, ValueError, "layer: expected a module, its name, or several of them, got none"),
        ({"layer": nn.ReLU()}, IMAGES, ValueError, "layer: expected a module of the model, got a ReLU outside of it"),
        ({"layer": 3}, IMAGES, TypeError, "layer: expected a module or its name, got int"),
        ({"layer": "7"}, IMAGES, ValueError, r"layer: expected an output .* got \(B, 5\) from '7'"),
        ({"method": "gram"}, IMAGES, ValueError, "method: expected one of 'gradcam', .* got 'gram'"),
        ({"fuse": "sum"}, IMAGES, ValueError, "fuse: expected one of 'mean', 'max', got 'sum'"),
        ({"size": "output"}, IMAGES, ValueError, "size: expected one of 'input', got 'output'"),
        ({"normalize": "sum"}, IMAGES, ValueError, "normalize: expected one of"),
        ({"relu": 1}, IMAGES, TypeError, "relu: expected a bool, got int"),
        ({"batch_size": 0}, IMAGES, ValueError, "batch_size: expected at least 1, got 0"),
        ({}, [1], TypeError, "input: expected a tensor, got list"),
        ({}, IMAGES[:0], ValueError, r"input: expected a batch \(B, …\), got \(0, 3, 12, 8\)"),
    ],
)
def test_wrong_calls(options: dict[str, Any], call: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.CAM(classifier(), **options)(call)


@pytest.mark.parametrize(
    ("size", "error", "message"),
    [
        (0, ValueError, "size: expected at least 1 in each dimension, got 0"),
        ((4, -1), ValueError, "size: expected at least 1"),
        (7.5, TypeError, "size: expected an int or a sequence of ints, got float"),
        ((7, "7"), TypeError, "size: expected an int, got str"),
    ],
)
def test_a_wrong_size_raises_in_the_constructor(size: Any, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        torchext.CAM(classifier(), "3", size=size)


def test_the_size_is_checked_before_further_passes() -> None:
    counts = []
    for method in ("gradcam", *PERTURBATION_METHODS):
        passes: list[int] = []
        layers = nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        model = nn.Sequential(*layers).eval()
        model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        with pytest.raises(ValueError, match=r"size: expected an int or 2 of them, got \(7, 7, 7\)"):
            torchext.CAM(model, "0", method=method, size=(7, 7, 7), batch_size=1)(IMAGES)
        message = r"size: .* differ in size, got None for \[\(10, 6\), \(5, 3\)\]"
        with pytest.raises(ValueError, match=message):
            torchext.CAM(model, ["0", "1"], method=method, size=None, batch_size=1)(IMAGES)
        counts.append(len(passes))
    assert counts[0] == counts[1] == counts[2]


def test_layers_of_different_sizes_require_a_size() -> None:
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.MaxPool2d(2), nn.AdaptiveAvgPool2d(1), nn.Flatten()).eval()
    with pytest.raises(ValueError, match="size: expected one for layers whose maps differ in size"):
        torchext.CAM(model, ["0", "1"], size=None)(IMAGES)
    assert torchext.CAM(model, ["0", "1"], size=7)(IMAGES).shape == (3, 7, 7)


def test_scores_that_do_not_depend_on_the_layer_raise() -> None:
    model = Blind()
    for frozen in (False, True):
        model.requires_grad_(not frozen)
        with pytest.raises(ValueError, match="layer: expected scores that depend on the output of 'seen'"):
            torchext.CAM(model.eval(), "seen")(IMAGES)


# Methods without gradients.


def test_score_cam_is_the_softmax_of_the_scores_of_masked_inputs() -> None:
    model = classifier()
    with torch.no_grad():
        maps = model[:4](IMAGES)
        weights = torch.empty(3, 6)
        for sample in range(3):
            low, high = maps[sample].amin((1, 2), True), maps[sample].amax((1, 2), True)
            masks = (maps[sample] - low) / (high - low)
            weights[sample] = model(IMAGES[sample] * masks.unsqueeze(1))[:, 2].softmax(0)
    expected = torchext.reference.cam_pool(maps, weights=weights)
    for batch_size in (None, 1, 4):
        maps_of = torchext.CAM(model, "3", method="scorecam", batch_size=batch_size)
        torch.testing.assert_close(maps_of(IMAGES, 2), expected)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int32])
def test_score_cam_rounds_integer_pixels_and_not_masks(dtype: torch.dtype) -> None:
    class Pixels(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.seen = classifier(), []

        def forward(self, x: Tensor) -> Tensor:
            assert x.dtype == dtype
            self.seen.append(x)
            return self.body(x.float() / 32)

    model, images = Pixels().eval(), torch.randint(0, 256, (1, 3, 12, 8), dtype=dtype)
    torchext.CAM(model, "body.3", method="scorecam")(images, 2)
    with torch.no_grad():
        maps = model.body[:4](images.float() / 32)[0]
    low, high = maps.amin((1, 2), True), maps.amax((1, 2), True)
    expected = (images * ((maps - low) / (high - low)).unsqueeze(1)).round()
    torch.testing.assert_close(model.seen[-1].float(), expected, rtol=0, atol=1)
    assert (model.seen[-1] != expected).float().mean() < 0.01  # halves depend on the last bit of a mask


def test_a_constant_channel_has_zero_weight_in_score_cam() -> None:
    model = classifier()
    model[3].weight.data[2], model[3].bias.data[2] = 0.0, 9.0
    maps = torchext.CAM(model, "3", method="scorecam", relu=False)(IMAGES, 2)
    model[3].bias.data[2] = 0.0
    assert maps.isfinite().all()
    model[3].weight.data.zero_()
    assert torch.equal(torchext.CAM(model, "3", method="scorecam")(IMAGES, 2), torch.zeros(3, 12, 8))


@pytest.mark.parametrize("method", PERTURBATION_METHODS)
def test_a_score_that_is_nan_makes_its_map_nan(method: Any) -> None:
    """The activations are finite, and only the scores of variants of the input are NaN."""
    model, whole = classifier(), True

    def score(scores: Tensor) -> Tensor:
        nonlocal whole
        found = torch.stack([scores[:, 1], scores[:, 2] if whole else scores[:, 2] * torch.nan])
        whole = False
        return found

    maps = torchext.CAM(model, "3", method=method, relu=False)(IMAGES, score)
    assert maps[0].isfinite().all()
    assert maps[1].isnan().all()


@pytest.mark.parametrize("layer", ["3", "0"])
def test_ablation_cam_is_the_decrease_of_the_score_without_a_channel(layer: str) -> None:
    model, split = classifier(), int(layer) + 1
    with torch.no_grad():
        maps = model[:split](IMAGES)
        scores = model[split:](maps.clone())[:, 2]
        weights = torch.empty(maps.shape[:2])
        for channel in range(maps.shape[1]):
            without = maps.clone()
            without[:, channel] = 0
            weights[:, channel] = (scores - model[split:](without)[:, 2]) / scores.abs()
    expected = torchext.reference.cam_pool(maps, weights=weights)
    for batch_size in (None, 1, 4):
        maps_of = torchext.CAM(model, layer, method="ablationcam", batch_size=batch_size)
        torch.testing.assert_close(maps_of(IMAGES, 2), expected)


@pytest.mark.parametrize(
    ("model", "layer", "once"),
    [
        (classifier(), "3", True),
        (SkipsByConcatenation(), "layer", True),
        (KeepsBatchSize(), "layer", True),
        (ReadsAValue(), "layer", False),
    ],
    ids=["repeats its output", "vmapped with a concatenation", "vmapped with a view", "repeats the sample"],
)
def test_ablation_runs_modules_before_the_layer_once(
    model: nn.Module, layer: str, once: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    cam, sizes = torchext.CAM(model.eval(), layer, method="ablationcam", batch_size=6), []
    first = next(m for m in model.modules() if isinstance(m, nn.Conv2d))
    with first.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0]))):
        maps = cam(IMAGES[:2], [[2, 3]] * 2)
    assert sizes[-1] == (1 if once else 6)
    monkeypatch.setattr(_Ablation, "_fastest_runner", lambda self, *_: self._by_repeated_sample)
    torch.testing.assert_close(maps, cam(IMAGES[:2], [[2, 3]] * 2))


@pytest.mark.parametrize("scale", [1.0, 1e-4])
def test_ablation_does_not_accept_a_wrong_fast_path_for_small_scores(
    scale: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    class CentresBatches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.layer(x).relu().mean((2, 3))
            return self.head(maps - maps.mean(0, keepdim=True) * (0.5 if len(x) > 1 else 0.0)) * scale

    cam = torchext.CAM(CentresBatches().eval(), "layer", method="ablationcam", relu=False)
    maps = cam(IMAGES, 2)
    monkeypatch.setattr(_Ablation, "_fastest_runner", lambda self, *_: self._by_repeated_sample)
    torch.testing.assert_close(maps, cam(IMAGES, 2))


def test_ablation_accepts_fast_paths_in_half_precision() -> None:
    """In half precision, results for batches of one and of two may differ by the last digits."""

    class Rounds(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.layer, self.head = nn.Conv2d(3, 6, 3, padding=1), nn.Linear(6, 5)

        def forward(self, x: Tensor) -> Tensor:
            maps = self.layer(x).float().relu().mean((2, 3))
            return self.head(maps * (1 + torch.finfo(torch.bfloat16).eps * (len(x) > 1))).float()

    model, sizes = Rounds().eval(), []
    hook = model.layer.register_forward_pre_hook(lambda module, args: sizes.append(len(args[0])))
    with hook, torch.autocast("cpu", torch.bfloat16):
        torchext.CAM(model, "layer", method="ablationcam")(IMAGES, 2)
    assert sizes[-1] == 1


def test_ablation_leaves_no_vmapped_tensors_in_the_model() -> None:
    """A model may store what it computes for other code."""

    class KeepsItsMaps(KeepsBatchSize):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            scores: torch.Tensor = super().forward(images)
            self.scores = scores
            return scores

    model = KeepsItsMaps().eval()
    torchext.CAM(model, "layer", method="ablationcam", batch_size=6)(IMAGES[:1], 2)
    assert (model.scores + 1).isfinite().all()


@pytest.mark.parametrize("method", PERTURBATION_METHODS)
def test_perturbation_methods_explain_tokens(method: Any) -> None:
    model, images = TokenModel().eval(), torch.randn(2, 3, 24, 16)
    maps = torchext.CAM(model, method=method)(images, 1)
    assert maps.shape == (2, 24, 16)
    assert maps.any()


@pytest.mark.parametrize("spatial", [(12, 8), (2, 2)], ids=["more positions", "more channels"])
def test_eigen_cam_is_the_first_principal_component(spatial: tuple[int, int]) -> None:
    model, images = classifier(), torch.randn(3, 3, *spatial)
    with torch.no_grad():
        maps = model[:4](images).double()
    for sample, found in enumerate(torchext.CAM(model, "3", method="eigencam", relu=False)(images)):
        left, values, _ = torch.linalg.svd(maps[sample].flatten(1).T, full_matrices=False)
        component = (left[:, 0] * values[0]).view(spatial)
        component = component * component.sum().sign() / component.abs().max()
        torch.testing.assert_close(found.double(), component, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("method", METHODS)
def test_nan_passes_through_only_in_its_sample(method: Any) -> None:
    images = IMAGES.clone()
    images[1] = torch.nan
    maps = torchext.CAM(classifier(), "3", method=method)(images, 1)
    assert maps[1].isnan().all()
    assert maps[[0, 2]].isfinite().all()


def test_augmentation_averages_six_views() -> None:
    model = classifier()
    views = [(scale, mirrored) for scale in (1.0, 0.9, 1.1) for mirrored in (False, True)]
    cam = torchext.CAM(model, "3")
    maps = [cam(IMAGES.flip(-1) * s if m else IMAGES * s, 2) for s, m in views]
    expected = sum(x.flip(-1) if m else x for x, (_, m) in zip(maps, views, strict=True)) / 6
    smooth = torchext.CAM(model, "3", augment=True)
    torch.testing.assert_close(smooth(IMAGES, 2), expected)
    torch.testing.assert_close(smooth.output, model(IMAGES).detach())
    smooth(IMAGES)
    assert torch.equal(smooth.targets, smooth.output.argmax(1))


def test_a_target_function_gets_no_mirrored_view() -> None:
    model = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Conv2d(8, 2, 3, padding=1)).eval()
    cam = torchext.CAM(model, "0", method="hirescam", relu=False, augment=True)
    maps = cam(IMAGES, lambda output: output[:, 1, 5, 1])
    assert maps.any(1).any(0).nonzero().flatten().tolist() == [0, 1, 2]
    plain = torchext.CAM(model, "0", method="hirescam", relu=False)
    views = [plain(IMAGES * scale, lambda output: output[:, 1, 5, 1]) for scale in (1.0, 0.9, 1.1)]
    torch.testing.assert_close(maps, sum(views) / 3)


def test_progress_is_drawn_by_tqdm(monkeypatch: pytest.MonkeyPatch) -> None:
    cam = torchext.CAM(classifier(), "3", method="ablationcam", batch_size=2, progress=True)
    monkeypatch.setitem(sys.modules, "tqdm.auto", None)
    monkeypatch.setitem(sys.modules, "tqdm", None)
    with pytest.raises(ImportError, match=r"tqdm; pip install 'torchext-ops\[progress\]'"):
        cam(IMAGES)
    drawn: list[Any] = []
    fake = ModuleType("tqdm.auto")
    fake.tqdm = lambda items, desc, leave: drawn.extend(items) or drawn
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    cam(IMAGES)
    assert len(drawn) == 9


# What models of other libraries do.


@pytest.mark.parametrize("method", ["gradcam", "ablationcam", "scorecam", "eigencam"])
def test_a_model_may_change_its_input_in_place(method: Any) -> None:
    class InPlace(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = classifier()

        def forward(self, x: Tensor) -> Tensor:
            return self.body(x.mul_(2.0))  # a multiple, which commutes with masks

    images, model = IMAGES.clone(), InPlace().eval()
    options: dict[str, Any] = {"method": method, "augment": True}
    found = torchext.CAM(model, **options)(images, 1)
    assert torch.equal(images, IMAGES)
    torch.testing.assert_close(found, torchext.CAM(model.body, **options)(2 * images, 1))


def test_threads_explain_one_model_one_after_the_other() -> None:
    model = classifier()
    expected = torchext.CAM(model)(IMAGES, 1)
    failures: list[Any] = []

    def explain() -> None:
        cam = torchext.CAM(model)
        for _ in range(20):
            try:
                if not torch.equal(cam(IMAGES, 1), expected):
                    failures.append("another map")
            except Exception as error:
                failures.append(error)

    threads = [threading.Thread(target=explain) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures


@dataclasses.dataclass(frozen=True)
class Output:
    logits: Tensor
    others: Any


class OwnList(list[Tensor]):
    """A list of another type."""


def test_an_output_is_detached_in_every_container() -> None:
    class Nested(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body = classifier()

        def forward(self, x: Tensor) -> Output:
            scores = self.body(x)
            return Output(scores, {"proxy": MappingProxyType({"scores": scores}), "list": OwnList([scores])})

    cam = torchext.CAM(Nested().eval())
    cam(IMAGES)
    assert isinstance(cam.output, Output)
    others = cam.output.others
    assert isinstance(others["list"], OwnList)
    assert not any(t.requires_grad for t in (cam.output.logits, others["proxy"]["scores"], others["list"][0]))


def test_a_single_layer_has_no_layer_inside() -> None:
    with pytest.raises(ValueError, match="for a single layer a model that has it as a child"):
        torchext.CAM(nn.Conv2d(3, 4, 3).eval())(IMAGES)


@pytest.mark.parametrize("method", GRADIENT_METHODS)
def test_maps_have_a_graph_for_a_loss(method: Any) -> None:
    model = nn.Sequential(
        nn.Conv2d(3, 4, 3, padding=1), nn.Softplus(), nn.Conv2d(4, 4, 3), nn.Softplus(), nn.Flatten(), nn.Linear(240, 5)
    ).double()  # fmt: skip
    images = IMAGES[:1].double()
    options: dict[str, Any] = {"method": method, "relu": False, "normalize": None, "size": None}
    cam = torchext.CAM(model.eval(), "1", create_graph=True, **options)
    torch.testing.assert_close(cam(images, 1).detach(), torchext.CAM(model, "1", **options)(images, 1))
    weight = model[0].weight
    (gradient,) = torch.autograd.grad(cam(images, 1).square().sum(), weight)
    step, direction, losses = 1e-5, torch.randn_like(weight), []
    for change in (step, -2 * step):
        with torch.no_grad():
            weight.add_(direction, alpha=change)
        losses.append(cam(images, 1).square().sum().item())
    expected = (losses[0] - losses[1]) / (2 * step)
    torch.testing.assert_close((gradient * direction).sum().item(), expected, rtol=1e-3, atol=1e-8)


def test_methods_without_gradients_have_no_graph() -> None:
    with pytest.raises(ValueError, match="create_graph: expected False for method 'eigencam'"):
        torchext.CAM(classifier(), method="eigencam", create_graph=True)


def test_tensors_in_lists_and_dictionaries_of_the_model_are_detached() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.body, self.seen, self.last = classifier(), list[Tensor](), dict[str, Tensor]()

        def forward(self, x: Tensor) -> Tensor:
            scores = self.body(x)
            self.seen.append(scores)
            self.last["scores"] = scores
            return scores

    model = Keeps().eval()
    own = model(IMAGES)
    torchext.CAM(model, "body.3")(IMAGES, 1)
    assert len(model.seen) > 1
    assert model.seen[0] is own
    assert own.grad_fn is not None
    assert all(scores.grad_fn is None for scores in (*model.seen[1:], model.last["scores"]))
