"""The layers and grids that CAM finds in the models of other libraries, compared with their configurations.

For every model, built with random weights, CAM chooses a layer and computes maps. The true grid of this layer comes
from the size of the image and from the strides, patches and additional tokens that the model's configuration defines or
that are written down here. Grad-CAM by a forward hook with this layout has to give the same map. Independently of the
configuration, a change of a few pixels has to change the layer's output most where this layout has these pixels.
"""

from __future__ import annotations

import argparse
import gc
import importlib
import inspect
import itertools
import math
import os
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", YOLO_OFFLINE="true", YOLO_VERBOSE="false")

import torch
from torch import Tensor, nn

import torchext

PAGE = Path(__file__).parents[2] / "docs" / "zoo.md"
RIGHT, ERROR, CRASH, WRONG, NOT_RUN = "right", "clear error", "crash", "silently wrong", "not run"
SECONDS = 200  # the limit for one model, on all cores together
LARGEST = 400e6  # parameters
Grid = tuple[int, ...]


class Case(NamedTuple):
    """A model, its input, and what its configuration defines.

    Attributes:
        axes: the dimensions of the input that the dimensions of a grid divide, in the order of the grid.
        maps: the grids that a map can have.
        tokens: the grids that a sequence of tokens can have.
        others: the numbers of tokens before and after those of the grid that a sequence can have.
        score: the scores ``(B,)`` of an output; None for an output with logits ``(B, classes)``.
        order: moves tokens ``(B, C, *grid)`` to their places if they are not in row-major order.
    """

    name: str
    model: nn.Module
    input: Tensor
    axes: Sequence[int]
    maps: list[Grid]
    tokens: list[Grid]
    others: list[tuple[int, int]]
    score: Callable[[Any], Tensor] | None = None
    order: Callable[[Tensor], Tensor] = lambda maps: maps

    def layout(self, output: Tensor) -> Tensor | None:
        """A layer's output as ``(B, C, *grid)``; None if it does not have a grid of this model."""
        shape = tuple(output.shape)
        if shape[0] == len(self.input) and len(shape) == len(self.axes) + 2:
            if shape[2:] not in self.maps and shape[1:-1] in self.maps:
                return output.movedim(-1, 1)
            sides = [list(zip(shape[2:], grid, strict=True)) for grid in self.maps]
            # Convolutions without padding make a map a little smaller.
            if any(all(abs(side - level) <= min(2, level // 4) for side, level in grid) for grid in sides):
                return output
        elif shape[0] == len(self.input) and len(shape) == 3:
            for grid, (before, after) in itertools.product(self.tokens, [*self.others, (0, 0)]):
                count = math.prod(grid)
                if shape[1] == before + count + after:
                    return self.order(output[:, before : before + count].mT.unflatten(2, grid))
                if shape[2] == count:
                    return self.order(output.unflatten(2, grid))
        return None


class Row(NamedTuple):
    model: str
    verdict: str
    layer: str = ""
    found: Grid = ()
    true: Grid = ()
    difference: float | None = None
    peaks: str = ""
    called: str = ""
    remark: str = ""


def first(output: Any) -> Tensor:
    """The tensor of an output that a caller would read."""
    if isinstance(output, Mapping):
        names = ("logits", "out", "pooler_output", "image_embeds", "last_hidden_state", *output)
        output = [output[name] for name in names if output.get(name) is not None]
    return output if isinstance(output, Tensor) else first(next(value for value in output if value is not None))


def weighted(output: Any) -> Tensor:
    """A score for each sample. A plain sum would not depend on what was normalised before."""
    values = first(output).flatten(1)
    return (values * torch.cos(torch.arange(values.shape[1]))).sum(1)


def replaced(output: Any, old: Tensor, new: Tensor) -> Any:
    if isinstance(output, Mapping):
        for key, value in output.items():
            output[key] = replaced(value, old, new)
    elif isinstance(output, (tuple, list)):
        values = [replaced(value, old, new) for value in output]
        return type(output)(*values) if hasattr(output, "_fields") else type(output)(values)
    return new if output is old else output


def caught(case: Case, layer: str, input: Tensor) -> tuple[Tensor, Any, str]:
    """The output of the layer in its last call, that of the model, and when the layer ended, in percent of all ends."""
    outputs: list[Tensor] = []
    ended: list[nn.Module] = []

    def hook(module: nn.Module, args: Any, output: Any) -> Any:
        outputs.append(first(output))
        return replaced(output, outputs[-1], outputs[-1].clone())  # the model may change it in place

    module = case.model.get_submodule(layer)
    handles = [part.register_forward_hook(lambda module, *_: ended.append(module)) for part in case.model.modules()]
    handles.append(module.register_forward_hook(hook))
    torch.manual_seed(0)
    output = case.model(input)
    for handle in handles:
        handle.remove()
    last = max(index for index, other in enumerate(ended) if other is module)
    return outputs[-1], output, f"{last / max(len(ended) - 2, 1):.0%}"


def by_hand(case: Case, layer: str) -> tuple[Tensor | None, Grid, str]:
    """Grad-CAM with the true layout, the size of the layer's output, and when the layer ended."""
    output, result, ended = caught(case, layer, case.input)
    logits = getattr(result, "logits", result)
    scores = logits.amax(1) if case.score is None else case.score(result)
    gradient = torch.autograd.grad(scores.sum(), output, allow_unused=True)[0]
    maps = case.layout(output.detach())
    gradients = case.layout(torch.zeros_like(output) if gradient is None else gradient)
    if maps is None or gradients is None:
        return None, tuple(output.shape), ended
    return (gradients.flatten(2).mean(2).unflatten(1, (-1, *(1,) * len(case.axes))) * maps).sum(1), (), ended


@torch.no_grad()
def peaks(case: Case, layer: str, grid: Grid) -> str:
    """In how many of three cells a change of the input changes the layer's output most in this cell or next to it."""
    hits = 0
    for place in ((0.2, 0.8, 0.3), (0.7, 0.2, 0.8), (0.4, 0.4, 0.6)):
        images = case.input[:1].repeat(2, *(1,) * (case.input.dim() - 1))
        region: list[Any] = [1] + [slice(None)] * (images.dim() - 1)
        cell = [int(fraction * side) for fraction, side in zip(place, grid, strict=False)]
        for axis, index, side in zip(case.axes, cell, grid, strict=True):
            start, end = (position * images.shape[axis] // side for position in (index, index + 1))
            region[axis] = slice(start, max(end, start + 1))
        images[tuple(region)] += 2.0
        maps = case.layout(caught(case, layer, images)[0])
        assert maps is not None
        change = (maps[1] - maps[0]).abs().sum(0)
        peak = torch.unravel_index(change.argmax(), change.shape)
        hits += all(abs(int(p) - c) <= 1 for p, c in zip(peak, cell, strict=True))
    return f"{hits}/3"


def look(name: str, builds: Sequence[Callable[[], Case]]) -> Row:
    """Explain the first of several variants of a model that runs."""
    problem = ""
    for build in builds:
        try:
            torch.manual_seed(0)
            case = build()
            prepare(case)
            with torch.no_grad():
                output = case.model(case.input)
            logits = getattr(output, "logits", output)
            if case.score is None and (not isinstance(logits, Tensor) or logits.dim() != 2):
                case = case._replace(score=weighted)
                weighted(output)
        except Exception as error:
            problem = text(error)
        else:
            break
    else:
        return Row(name, NOT_RUN, remark=problem)
    try:
        return compare(case)
    except Exception as error:
        return Row(case.name, NOT_RUN, remark=f"the comparison failed: {text(error)}")


def compare(case: Case) -> Row:
    """Explain a model, and compare the layer, the grid and the map."""
    cam = torchext.CAM(case.model, size=None, relu=False, normalize=None)
    try:
        torch.manual_seed(0)
        maps = cam(case.input, case.score)
    except Exception as error:
        clear = re.match(r"(ValueError|TypeError): (model|layer|input|targets|size): ", text(error))
        return Row(case.name, ERROR if clear else CRASH, ", ".join(cam.layers), remark=text(error))
    found, (layer, *_) = tuple(maps.shape[1:]), cam.layers
    expected, shape, ended = by_hand(case, layer)
    row = Row(case.name, WRONG, layer, found, called=ended)
    if expected is None:
        return row._replace(remark=f"an output {shape} has no grid of the image")
    row = row._replace(true=tuple(expected.shape[1:]), peaks=peaks(case, layer, tuple(expected.shape[1:])))
    if case.axes == (2, 1) and found == row.true[::-1]:
        maps = maps.mT  # of a spectrogram, time may be the first dimension
    if maps.shape != expected.shape:
        return row._replace(remark="the grid is wrong")
    if not expected.any():
        return row._replace(remark="all gradients are 0")
    difference = float((maps - expected).abs().max() / expected.abs().max())
    if difference < 1e-3:
        return row._replace(verdict=RIGHT, difference=difference)
    return row._replace(difference=difference, remark="the map is not that of the true layout")


@torch.no_grad()
def prepare(case: Case) -> None:
    """Fill weights that are 0, which hide what they multiply, and let batch normalisation normalise what it gets."""
    case.model.eval()
    for parameter in case.model.parameters():
        if parameter.dim() > 1 and not parameter.any():
            parameter.normal_(std=0.02)
    norms = [m for m in case.model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    for norm in norms:
        norm.momentum = 1.0
        norm.train()
    if norms:
        case.model(case.input)
    case.model.eval()


def text(error: Exception) -> str:
    return re.sub(r"\s+", " ", f"{type(error).__name__}: {error}")[:160].replace("|", "\\|")


def levels(image: Sequence[int], patch: Any = None) -> list[Grid]:
    """The grids of an image divided by a patch and by powers of two, rounded either way."""
    patches = [patch] if isinstance(patch, int) else []
    strides = [(side,) * len(image) for side in (*patches, 1, 2, 4, 8, 16, 32, 64)]
    strides += [tuple(patch)] if isinstance(patch, (tuple, list)) and len(patch) == len(image) else []
    down = [tuple(i // s for i, s in zip(image, stride, strict=True)) for stride in strides]
    up = [tuple(-(-i // s) for i, s in zip(image, stride, strict=True)) for stride in strides]
    return list(dict.fromkeys(grid for grid in (*down, *up) if math.prod(grid) > 1))


def image_case(name: str, model: nn.Module, size: Sequence[int], patch: Any = None, before: int = 1) -> Case:
    """A case with an input ``(2, *size)`` and at most `before` additional tokens."""
    input, grids = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)), levels(size[1:], patch)
    return Case(name, model, input, range(2, 1 + len(size)), grids, grids, [(before, 0)])


@cache
def smallest(create: Callable[[str], nn.Module], names: tuple[str, ...]) -> str:
    """The name of the model with the fewest parameters."""
    return min(names, key=lambda name: count(partial(create, name)))


def count(build: Callable[[], nn.Module]) -> int:
    """The number of parameters; infinite for a model that cannot be built without them."""
    try:
        with torch.device("meta"):
            return sum(parameter.numel() for parameter in build().parameters())
    except Exception:
        return sys.maxsize


Cases = Iterator[tuple[str, list[Callable[[], Case]]]]

# The names of the inputs of classes of transformers that take nothing else, and families whose input is no image.
INPUTS = ("pixel_values", "pixel_values_videos", "input_features", "input_values")
SPECTROGRAMS = ("audio_spectrogram_transformer", "clap")
VIDEOS = ("timesformer", "videomae", "videomt", "videoprism", "vivit", "vjepa2")
# The numbers of tokens before and after the patches, where it is not a class token and the registers.
OTHERS: dict[str, Callable[[Any], tuple[int, int]]] = {
    "audio_spectrogram_transformer": lambda config: (2, 0),
    "deit": lambda config: (2, 0),
    "yolos": lambda config: (1, config.num_detection_tokens),
    "eomt": lambda config: (config.num_queries + 1 + config.num_register_tokens, 0),
    "eomt_dinov3": lambda config: (config.num_queries + 1 + config.num_register_tokens, 0),
    "llama4": lambda config: (0, 1),
}


def frames_last(maps: Tensor) -> Tensor:
    """TimeSformer: all frames of the first patch, then those of the second."""
    return maps.flatten(2).unflatten(2, (*maps.shape[3:], maps.shape[2])).movedim(-1, 2)


def chunks(maps: Tensor) -> Tensor:
    """CLAP: four parts of the time, one below the other, each ``(frequencies, time)``."""
    return maps.unflatten(2, (4, -1)).mT.flatten(2, 3)


def by_units(maps: Tensor, units: Grid) -> Tensor:
    """Hiera: the four positions that a pooling merges are far from each other, for the next pooling first."""
    poolings = (maps.shape[2] // units[0]).bit_length() - 1
    parts = maps.flatten(2).unflatten(2, (2, 2) * poolings + units)
    rows, columns = range(2 * poolings + 2, 1, -2), range(2 * poolings + 3, 2, -2)
    return parts.permute(0, 1, *rows, *columns).reshape(maps.shape)


def configs(config: Any) -> Iterator[Any]:
    """A configuration and those that it contains, without those of text."""
    yield config
    for name, value in vars(config).items():
        if hasattr(value, "model_type") and "text" not in name:
            yield from configs(value)


def setting(config: Any, *names: str, default: Any = None) -> Any:
    values = (getattr(part, name, None) for part in configs(config) for name in names)
    return next((value for value in values if value is not None), default)


def shrink(config: Any, image: Sequence[int]) -> None:
    """Few layers, few frames, and a small image."""
    for part in configs(config):
        for name, value in list(vars(part).items()):
            if name in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers") and value:
                setattr(part, name, min(value, 4))
            elif name == "depths" and value:
                part.depths = [min(depth, 2) for depth in value]
            elif name == "image_size" and value:
                part.image_size = list(image) if image[0] != image[1] else image[0]
            elif name in ("num_frames", "frames_per_clip"):
                setattr(part, name, 8)


def hf() -> Cases:
    """Every class of transformers whose only input is images, a video or a spectrogram."""
    library = importlib.import_module("transformers")
    for path in sorted((Path(library.__file__ or "").parent / "models").glob("*/modeling_*.py")):
        family = path.parent.name
        if "pixel_values" in path.read_text(encoding="utf-8") or family in SPECTROGRAMS:
            module = importlib.import_module(f"transformers.models.{family}.{path.stem}")
            for name, kind in vars(module).items():
                if isinstance(kind, type) and issubclass(kind, library.PreTrainedModel):
                    inputs = list(inspect.signature(kind.forward).parameters.values())[1:]
                    alone = all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in inputs[1:])
                    if kind.__module__ == module.__name__ and inputs and inputs[0].name in INPUTS and alone:
                        label, images = f"{family}/{name}", ((224, 320), (224, 224), None)
                        yield label, [partial(hf_case, label, kind, image) for image in images]


def hf_case(name: str, kind: Any, image: Grid | None) -> Case:
    """The class with few layers and images of this size; with None, as its configuration is."""
    config = kind.config_class()
    if image is not None:
        shrink(config, image)
    else:
        size = setting(config, "image_size", default=224)
        image = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if LARGEST < (parameters := count(lambda: kind(config))) < sys.maxsize:
        raise ValueError(f"{parameters / 1e6:.0f} million parameters")
    return hf_input(name, kind(config), config, image)


def hf_input(name: str, model: nn.Module, config: Any, image: Sequence[int]) -> Case:
    family = name.partition("/")[0]
    patch = setting(config, "patch_size")
    case = image_case(name, model, (setting(config, "num_channels", "in_channels", default=3), *image), patch)
    registers = setting(config, "num_register_tokens", default=0)
    case = case._replace(others=[OTHERS.get(family, lambda config: (1 + registers, 0))(config)])
    if family == "hiera":
        return case._replace(order=partial(by_units, units=(image[0] // 32, image[1] // 32)))
    if family == "audio_spectrogram_transformer":
        time, bins = config.max_length, config.num_mel_bins
        grid = ((bins - patch) // config.frequency_stride + 1, (time - patch) // config.time_stride + 1)
        return case._replace(input=torch.randn(2, time, bins), axes=(2, 1), maps=[grid], tokens=[grid])
    if family == "clap":
        return case._replace(
            input=torch.randn(2, 1, 1024, 64), maps=[], tokens=levels((256, 256)), others=[], order=chunks
        )
    if family in VIDEOS:
        frames = setting(config, "num_frames", "frames_per_clip", default=8)
        tubelet = setting(config, "tubelet_size", default=1)
        steps = (tubelet, patch, patch) if isinstance(tubelet, int) else tubelet
        grids = [tuple(side // step for side, step in zip((frames, *image), steps, strict=True))]
        input, order = torch.randn(2, frames, 3, *image), frames_last if family == "timesformer" else case.order
        return case._replace(input=input, axes=(1, 3, 4), maps=grids, tokens=grids, order=order)
    return case


def timm() -> Cases:
    """The smallest model of every family of timm."""
    library = importlib.import_module("timm")

    def build(family: str, names: tuple[str, ...], wider: int) -> Case:
        name = smallest(library.create_model, names)
        model = library.create_model(name)
        channels, height, width = model.pretrained_cfg["input_size"]
        patch = getattr(getattr(model, "patch_embed", None), "patch_size", None)
        size, before = (channels, height, width + wider), getattr(model, "num_prefix_tokens", 0)
        return image_case(f"{family}/{name}", model, size, patch, before)

    for family in library.list_modules():
        names = tuple(name for name in library.list_models(module=family) if not name.startswith("test_"))
        if names:
            yield family, [partial(build, family, names, wider) for wider in (96, 0)]


def torchvision() -> Cases:
    """The smallest model of every family of torchvision."""
    models = importlib.import_module("torchvision.models")

    def create(task: str, name: str) -> nn.Module:
        more: dict[str, Any] = {"init_weights": False} if name in ("googlenet", "inception_v3") else {}
        if task == "segmentation":
            more = {"weights_backbone": None, **({} if name.startswith("lraspp") else {"aux_loss": True})}
        if task == "detection":
            more = {"weights_backbone": None, "num_classes": 3}
            more["box_score_thresh" if "rcnn" in name else "score_thresh"] = 0.0
            more.update({} if name.startswith("ssd") else {"min_size": 224, "max_size": 320})
        model: nn.Module = models.get_model(name, weights=None, **more)
        return model

    def build(label: str, creates: Callable[[str], nn.Module], names: tuple[str, ...], image: Grid) -> Case:
        name = smallest(creates, names)
        model = creates(name)
        case = image_case(f"{label}/{name}", model, (3, *image), getattr(model, "patch_size", None))
        if label.startswith("video"):
            maps = [(frames, *grid) for frames in (16, 8, 4, 2) for grid in levels(image[1:])]
            return case._replace(maps=maps, tokens=[(8, *grid) for grid in levels(image[1:])])
        if label.startswith("detection"):
            return case._replace(score=lambda output: torch.stack([one["scores"].sum() for one in output]))
        return case

    for task in ("", "segmentation", "detection", "video"):
        creates, families = partial(create, task), {}
        for name in models.list_models(module=getattr(models, task) if task else models):
            family = models.get_model_builder(name).__module__.rpartition(".")[2]
            families.setdefault(f"{task}/{family}".strip("/"), []).append(name)
        for label, names in families.items():
            images = [(16, 112, 160), (16, 224, 224)] if task == "video" else [(224, 320), (224, 224)]
            images = {"inception": [(299, 395)], "detection/ssd": [(300, 300)]}.get(label, images)
            images = [(320, 320)] if label == "detection/ssdlite" else images
            yield label, [partial(build, label, creates, tuple(names), image) for image in images]


def ultralytics() -> Cases:
    """The smallest model of every configuration of ultralytics."""
    library = importlib.import_module("ultralytics")

    def build(path: Path) -> Case:
        model = (library.RTDETR if path.stem.startswith("rtdetr") else library.YOLO)(str(path)).model
        return image_case(path.stem, model, (3, 256, 320))

    for path in sorted((Path(library.__file__ or "").parent / "cfg" / "models").glob("*/*.yaml")):
        if not re.search(r"yolov10[^n]|yolov9[cesm]|rtdetr-(x|resnet101)|cls-resnet", path.stem):
            yield path.stem, [partial(build, path)]


# Arguments of MONAI's networks, by name, and those of single networks.
KNOWN: dict[str, Any] = {
    "in_channels": 1, "n_input_channels": 1, "out_channels": 2, "num_classes": 3, "classes": 3, "out_shape": (3,),
    "channels": (8, 16, 32), "strides": (2, 2), "patch_size": 16, "hidden_size": 48, "mlp_dim": 96, "num_heads": 4,
    "num_layers": 3, "decoder_hidden_size": 48, "decoder_num_heads": 4, "latent_size": 4, "pretrained": False,
    "classification": True, "num_channel_initial": 8, "depth": 3, "block": "basic", "layers": [1] * 4,
    "block_inplanes": [8, 16, 32, 64],
}  # fmt: skip
NETWORKS: dict[str, dict[str, Any]] = {
    "DenseNet121": {}, "ResNet": {}, "ViT": {}, "ViTAutoEnc": {}, "MaskedAutoEncoderViT": {}, "UNETR": {}, "UNet": {},
    "AttentionUnet": {}, "AutoEncoder": {}, "VarAutoEncoder": {}, "BasicUNet": {}, "BasicUNetPlusPlus": {}, "VNet": {},
    "SegResNet": {}, "SegResNetVAE": {}, "SegResNetDS": {}, "HighResNet": {}, "RegUNet": {},
    "Classifier": {}, "Regressor": {}, "HoVerNet": {}, "AHNet": {"layers": (1,) * 4}, "Quicknat": {"num_filters": 8},
    "Restormer": {"dim": 8},
    "SENet": {"block": "se_resnet_bottleneck", "groups": 1, "reduction": 16},
    "EfficientNetBN": {"model_name": "efficientnet-b0"},
    "MedNeXt": {"init_filters": 8}, "FlexibleUNet": {"backbone": "efficientnet-b0"},
    "SwinUNETR": {"patch_size": 2, "num_heads": (3, 6, 12, 24), "feature_size": 12},
    "DynUNet": {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2] * 2},
    "PatchDiscriminator": {"channels": 8}, "VQVAE": {"channels": (8, 8, 16), "num_res_channels": (8, 8, 16)},
    "AutoencoderKL": {"norm_num_groups": 8, "channels": (8, 16, 16, 16)},
}  # fmt: skip


def monai() -> Cases:
    """Networks of MONAI for images and for volumes."""
    nets = importlib.import_module("monai.networks.nets")

    def build(name: str, image: Grid) -> Case:
        kind, sizes = getattr(nets, name), dict.fromkeys(("img_size", "input_image_size"), image)
        known = {**KNOWN, **sizes, "in_shape": (1, *image), "spatial_dims": len(image), **NETWORKS[name]}
        accepted = {key for base in kind.__mro__[:-1] for key in inspect.signature(base.__init__).parameters}
        model = kind(**{key: value for key, value in known.items() if key in accepted})
        return image_case(f"{name}/{len(image)}D", model, (1, *image), 16)

    for name, image in itertools.product(NETWORKS, ((96, 128), (32, 64, 32))):
        yield f"{name}/{len(image)}D", [partial(build, name, image)]


SOURCES: dict[str, Callable[[], Cases]] = {
    "hf": hf, "torchvision": torchvision, "timm": timm, "ultralytics": ultralytics, "monai": monai
}  # fmt: skip


def table(rows: Sequence[Row]) -> str:
    lines = ["| model | layer | grid | true grid | verdict | difference | peaks | called | |", "|" + "---|" * 9]
    for row in rows:
        found, true = ("×".join(map(str, grid)) for grid in (row.found, row.true))
        difference = "" if row.difference is None else f"{row.difference:.0e}"
        cells = (row.model, f"`{row.layer}`" if row.layer else "", found, true, row.verdict, difference)
        lines.append("| " + " | ".join((*cells, row.peaks, row.called, row.remark)) + " |")
    return "\n".join(lines)


def stop(*_: Any) -> None:
    raise TimeoutError(f"longer than {SECONDS} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("names", nargs="*", help="parts of the names of models or families; all if none are given")
    parser.add_argument("--source", choices=SOURCES, action="append", help="a library; all if none is given")
    options = parser.parse_args()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, stop)
    for source in options.source or SOURCES:
        start, rows = time.monotonic(), []
        for name, builds in SOURCES[source]():
            if options.names and not any(part in name for part in options.names):
                continue
            began = time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SECONDS)
            rows.append(look(name, builds))
            signal.setitimer(signal.ITIMER_PROF, 0)
            gc.collect()
            print(table(rows[-1:]).splitlines()[-1], f"{time.process_time() - began:.1f} s", flush=True)
        counts = Counter(row.verdict for row in rows)
        result = ", ".join(f"{counts[verdict]} {verdict}" for verdict in (RIGHT, ERROR, CRASH, WRONG, NOT_RUN))
        print(f"{source}: {result}; {(time.monotonic() - start) / 60:.1f} minutes", flush=True)
        if not options.names:
            head, begin, rest = PAGE.read_text(encoding="utf-8").partition(f"<!-- {source} -->\n")
            _, end, rest = rest.partition("<!-- end -->")
            PAGE.write_text(head + begin + f"{result}.\n\n{table(rows)}\n" + end + rest, encoding="utf-8")


if __name__ == "__main__":
    main()
