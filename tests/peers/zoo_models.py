"""Models of other libraries with random weights, and the grids that their configurations define."""

from __future__ import annotations

import importlib
import inspect
import itertools
import math
import os
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

os.environ.update(HF_HUB_OFFLINE="1", TRANSFORMERS_VERBOSITY="error", YOLO_OFFLINE="true", YOLO_VERBOSE="false")

import torch
from torch import Tensor, nn

Grid = tuple[int, ...]
LARGEST = 200e6  # parameters
SMALL = (128, 192)  # the size of an image, for models that accept every size


class Case(NamedTuple):
    """A model, its input, and what its configuration defines.

    Attributes:
        axes: the dimensions of the input that the dimensions of a grid divide, in the order of the grid.
        maps: the grids that a map can have.
        tokens: the grids that a sequence of tokens can have.
        others: the numbers of tokens before and after those of the grid that a sequence can have.
        score: the scores ``(B,)`` of an output; None for an output with logits ``(B, classes)``.
        order: moves tokens ``(B, C, *grid)`` to their places if they are not in row-major order.
        transposes: whether the two dimensions of maps are in the reverse order of those of tokens.
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
    transposes: bool = False

    def layout(self, output: Tensor) -> Tensor | None:
        """A layer's output as ``(B, C, *grid)``; None if it does not have a grid of this model."""
        shape = tuple(output.shape)
        if shape[0] == len(self.input) and len(shape) == len(self.axes) + 2:
            if shape[2:] not in self.maps and shape[1:-1] in self.maps:
                return output.movedim(-1, 1)
            sides = [list(zip(shape[2:], grid, strict=True)) for grid in self.maps]
            # Convolutions without padding make a map a little smaller.
            if any(all(abs(side - level) <= min(2, level // 4) for side, level in grid) for grid in sides):
                return output.mT if self.transposes else output
        elif shape[0] == len(self.input) and len(shape) == 3:
            for grid, (before, after) in itertools.product(self.tokens, [*self.others, (0, 0)]):
                count = math.prod(grid)
                if shape[1] == before + count + after:
                    return self.order(output[:, before : before + count].mT.unflatten(2, grid))
        return None


def levels(image: Sequence[int], patch: Any = None) -> list[Grid]:
    """The grids of an image divided by a patch and by powers of two, rounded either way."""
    patches = [patch] if isinstance(patch, int) else []
    strides = [(side,) * len(image) for side in (*patches, 1, 2, 4, 8, 16, 32, 64, 128)]
    strides += [tuple(patch)] if isinstance(patch, (tuple, list)) and len(patch) == len(image) else []
    down = [tuple(i // s for i, s in zip(image, stride, strict=True)) for stride in strides]
    up = [tuple(-(-i // s) for i, s in zip(image, stride, strict=True)) for stride in strides]
    return list(dict.fromkeys(grid for grid in (*down, *up) if math.prod(grid) > 1))


def image_case(name: str, model: nn.Module, size: Sequence[int], patch: Any = None, before: int = 1) -> Case:
    """A case with an input ``(2, *size)`` and at most `before` additional tokens."""
    input, grids = torch.randn(2, *size, generator=torch.Generator().manual_seed(0)), levels(size[1:], patch)
    pools = [part.output_size for part in model.modules() if isinstance(part, nn.AdaptiveAvgPool2d)]
    pools = [pool for pool in pools if isinstance(pool, tuple) and None not in pool and max(pool) > 1]
    return Case(name, model, input, range(2, 1 + len(size)), grids + pools, grids, [(before, 0)])


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

# The sizes of the images of models of transformers, and None for that of the configuration.
IMAGES = (SMALL, (224, 224), None)
# The names of the inputs of classes of transformers that take nothing else, and families whose input is no image.
INPUTS = ("pixel_values", "pixel_values_videos", "input_features", "input_values")
SPECTROGRAMS = ("audio_spectrogram_transformer", "clap")
VIDEOS = ("timesformer", "videomae", "videomt", "videoprism", "vivit", "vjepa2")
# The numbers of tokens before and after the patches, where it is not a class token and the registers.
OTHERS: dict[str, Callable[[Any], tuple[int, int]]] = {
    "audio_spectrogram_transformer": lambda config: (2, 0),
    "deit": lambda config: (2, 0),
    "yolos": lambda config: (1, config.num_detection_tokens),
    "llama4": lambda config: (0, 1),
    "pixio": lambda config: (config.n_cls_tokens, 0),
}
# The strides of the coarser maps whose tokens are after those of the finest one.
LEVELS: dict[str, Grid] = {"deformable_detr": (16, 32, 64), "pp_doclayout_v3": (16, 32), "pp_doclayout_v4": (16, 32)}
# The strides of rows and columns of models that read a line of text.
STRIDES: dict[str, Grid] = dict.fromkeys(
    ("pp_lcnet_v4", "pp_ocrv5_server_rec", "pp_ocrv6_small_rec", "pp_ocrv6_tiny_rec"), (16, 4)
)


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


def by_windows(maps: Tensor, windows: int) -> Tensor:
    """LW-DETR: all tokens of the first window, then those of the second."""
    sides = (windows, windows, maps.shape[2] // windows, maps.shape[3] // windows)
    return maps.flatten(2).unflatten(2, sides).transpose(3, 4).reshape(maps.shape)


def configs(config: Any) -> Iterator[Any]:
    """A configuration and those that it contains, without those of text."""
    yield config
    for name, value in vars(config).items():
        if hasattr(value, "model_type") and "text" not in name:
            yield from configs(value)


def setting(config: Any, *names: str, default: Any = None) -> Any:
    values = (getattr(part, name, None) for part in configs(config) for name in names)
    return next((value for value in values if value is not None), default)


def shrink(config: Any, image: Sequence[int], first: int) -> None:
    """Few layers, few frames, and an image of this size. Layers are counted from `first`."""
    for part in configs(config):
        for name, value in list(vars(part).items()):
            if name in ("num_hidden_layers", "encoder_layers", "decoder_layers", "num_layers") and value:
                setattr(part, name, min(value, 4))
            elif name == "depths" and value:
                part.depths = [min(depth, 2) for depth in value]
            elif name == "image_size" and value:
                part.image_size = list(image) if image[0] != image[1] else image[0]
            elif name == "num_queries" and value:
                part.num_queries = min(value, 20)
            elif name in ("num_frames", "frames_per_clip"):
                setattr(part, name, 8)
            elif name == "max_length" and hasattr(part, "num_mel_bins"):
                part.max_length = 256
            elif name == "hidden_sizes" and value:
                part.hidden_sizes = list(value)  # some backbones add lists to the default, a tuple
            elif name.endswith("out_indices") and value and max(value) > 4:
                setattr(part, name, [first, first + 1, first + 2, first + 3][-len(value) :])


def hf(names: Sequence[str] = ()) -> Cases:
    """Two classes of each family of transformers, and all of those in `names`: classifiers first, then other tasks."""
    library = importlib.import_module("transformers")
    for path in sorted((Path(library.__file__ or "").parent / "models").glob("*/modeling_*.py")):
        family = path.parent.name
        if names and not any(name.partition("/")[0] in family for name in names):
            continue
        if "pixel_values" in path.read_text(encoding="utf-8") or family in SPECTROGRAMS:
            module = importlib.import_module(f"transformers.models.{family}.{path.stem}")
            kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and takes_images(kind, module)]
            kinds.sort(key=lambda kind: ("Classification" not in kind.__name__, "For" not in kind.__name__))
            for kind in kinds if names else kinds[:2]:
                label = f"{family}/{kind.__name__}"
                variants = [*itertools.product(IMAGES, (1, 0)), (None, None)]
                yield label, [partial(hf_case, label, kind, *variant) for variant in variants]


def takes_images(kind: type, module: Any) -> bool:
    """Whether a class of this module is a model whose only input is images, a video or a spectrogram."""
    library = importlib.import_module("transformers")
    if not issubclass(kind, library.PreTrainedModel) or kind.__module__ != module.__name__:
        return False
    inputs = list(inspect.signature(kind.forward).parameters.values())[1:]
    alone = all(p.default is not p.empty or p.kind is p.VAR_KEYWORD for p in inputs[1:])
    return bool(inputs) and inputs[0].name in INPUTS and alone


def hf_case(name: str, kind: Any, image: Grid | None, first: int | None) -> Case:
    """The class with images of this size or of its own, and with few layers, unless `first` is None."""
    config = kind.config_class()
    if image is None:
        size = setting(config, "image_size", default=224)
        image = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if first is not None:
        shrink(config, image, first)
    if LARGEST < (parameters := count(lambda: kind(config))) < sys.maxsize:
        raise ValueError(f"{parameters / 1e6:.0f} million parameters")
    return hf_input(name, kind(config), config, image)


def hf_input(name: str, model: nn.Module, config: Any, image: Sequence[int]) -> Case:
    family = name.partition("/")[0]
    patch = STRIDES.get(family, setting(config, "patch_size"))
    case = image_case(name, model, (setting(config, "num_channels", "in_channels", default=3), *image), patch)
    registers = setting(config, "num_register_tokens", default=0)
    case = case._replace(others=[OTHERS.get(family, lambda config: (1 + registers, 0))(config)])
    if family in ("eomt", "eomt_dinov3"):  # the last layers have the queries as well
        case = case._replace(others=[(1 + registers, 0), (config.num_queries + 1 + registers, 0)])
    if family in LEVELS:  # the tokens of the coarser levels are after those of the finest one
        case = case._replace(others=[(0, sum(image[0] // side * (image[1] // side) for side in LEVELS[family]))])
    if family == "hiera" and not name.endswith("Backbone"):  # the backbone leaves the tokens in row-major order
        return case._replace(order=partial(by_units, units=(image[0] // 32, image[1] // 32)))
    if family == "lw_detr":
        return case._replace(order=partial(by_windows, windows=setting(config, "num_windows_side")))
    if family == "audio_spectrogram_transformer":
        time, bins = config.max_length, config.num_mel_bins
        grid = ((bins - patch) // config.frequency_stride + 1, (time - patch) // config.time_stride + 1)
        return case._replace(input=torch.randn(2, time, bins), axes=(2, 1), maps=[grid], tokens=[grid])
    if family == "clap":
        return case._replace(
            input=torch.randn(2, 1, 1024, 64),
            maps=[(2, 32)],
            tokens=levels((256, 256)),
            others=[],
            order=chunks,
            transposes=True,
        )
    if family in VIDEOS:
        frames = setting(config, "num_frames", "frames_per_clip", default=8)
        tubelet = setting(config, "tubelet_size", default=1)
        steps = (tubelet, patch, patch) if isinstance(tubelet, int) else tubelet
        grids = [tuple(side // step for side, step in zip((frames, *image), steps, strict=True))]
        input, order = torch.randn(2, frames, 3, *image), frames_last if family == "timesformer" else case.order
        return case._replace(input=input, axes=(1, 3, 4), maps=grids, tokens=grids, order=order)
    return case


# Families of timm whose configuration does not say the size of a patch, and whose models resize their input.
PATCHES = {"convmixer": 7, "sequencer": 14}
RESIZED = {"crossvit": [(20, 20), (14, 14)], "mobilenetv5": [(16, 16)]}


def timm(names: Sequence[str] = ()) -> Cases:
    """A small model of every family of timm."""
    library = importlib.import_module("timm")

    def build(family: str, names: tuple[str, ...], wider: int | None) -> Case:
        name = smallest(library.create_model, names)
        if LARGEST / 2 < (parameters := count(partial(library.create_model, name))) < sys.maxsize:
            raise ValueError(f"{parameters / 1e6:.0f} million parameters")
        model = library.create_model(name)
        channels, height, width = model.pretrained_cfg["input_size"]
        patch = PATCHES.get(family, getattr(getattr(model, "patch_embed", None), "patch_size", None))
        size = (channels, *SMALL) if wider is None else (channels, height, width + wider)
        before = getattr(model, "num_prefix_tokens", 1)
        case = image_case(f"{family}/{name}", model, size, patch, before)
        resized = RESIZED.get(family, [])
        return case._replace(maps=case.maps + resized, tokens=case.tokens + resized)

    for family in library.list_modules():
        models = [name for name in library.list_models(module=family) if not name.startswith("test_")]
        small = [name for name in models if not re.search("large|huge|giant|so[0-9]+m|_xx?l", name)]
        small = small[:: len(small) // 16 + 1]  # large families take minutes to measure
        # Without padding, a small image has a grid that differs much from that of the strides.
        variants = (96, 0) if family.startswith("inception") else (None, 96, 0)
        if models:
            yield family, [partial(build, family, tuple(small or models), wider) for wider in variants]


def torchvision(names: Sequence[str] = ()) -> Cases:
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
        creates = partial(create, task)
        families: dict[str, list[str]] = {}
        for name in models.list_models(module=getattr(models, task) if task else models):
            family = models.get_model_builder(name).__module__.rpartition(".")[2]
            families.setdefault(f"{task}/{family}".strip("/"), []).append(name)
        for label, names in families.items():
            images = [(16, 112, 160), (16, 224, 224)] if task == "video" else [SMALL, (224, 320), (224, 224)]
            images = {"inception": [(299, 395)], "detection/ssd": [(300, 300)]}.get(label, images)
            images = [(320, 320)] if label == "detection/ssdlite" else images
            if images[0] == SMALL and task == "detection":
                images = [(224, 320)]  # of other sizes it is not known how the model pads them
            yield label, [partial(build, label, creates, tuple(names), image) for image in images]


def ultralytics(names: Sequence[str] = ()) -> Cases:
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
    "AttentionUnet": {}, "AutoEncoder": {"strides": (2, 2, 2)}, "VarAutoEncoder": {"strides": (2, 2, 2)}, "VNet": {},
    "BasicUNet": {}, "BasicUNetPlusPlus": {}, "SegResNet": {}, "SegResNetVAE": {}, "SegResNetDS": {}, "RegUNet": {},
    "HighResNet": {}, "Classifier": {}, "Regressor": {}, "AHNet": {"layers": (1,) * 4, "psp_block_num": 2},
    "SENet": {"block": "se_resnet_bottleneck", "groups": 1, "reduction": 16}, "Quicknat": {"num_filters": 8},
    "EfficientNetBN": {"model_name": "efficientnet-b0"}, "FlexibleUNet": {"backbone": "efficientnet-b0"},
    "SwinUNETR": {"patch_size": 2, "num_heads": (3, 6, 12, 24), "feature_size": 12},
    "DynUNet": {"kernel_size": [3] * 3, "strides": [1, 2, 2], "upsample_kernel_size": [2] * 2},
    "PatchDiscriminator": {"channels": 8, "num_layers_d": 2},
    "VQVAE": {"channels": (8, 8, 16), "num_res_channels": (8, 8, 16)},
    "AutoencoderKL": {"norm_num_groups": 8, "channels": (8, 16, 16, 16)}, "MedNeXt": {"init_filters": 8},
}  # fmt: skip


def monai(names: Sequence[str] = ()) -> Cases:
    """Networks of MONAI for images and for volumes."""
    nets = importlib.import_module("monai.networks.nets")

    def build(name: str, image: Grid) -> Case:
        kind, sizes = getattr(nets, name), dict.fromkeys(("img_size", "input_image_size"), image)
        known = {**KNOWN, **sizes, "in_shape": (1, *image), "spatial_dims": len(image), **NETWORKS[name]}
        accepted = inspect.signature(kind).parameters
        model = kind(**{key: value for key, value in known.items() if key in accepted})
        return image_case(f"{name}/{len(image)}D", model, (1, *image), 16)

    for name, image in itertools.product(NETWORKS, ((96, 128), (32, 64, 32))):
        yield f"{name}/{len(image)}D", [partial(build, name, image)]


SOURCES: dict[str, Callable[..., Cases]] = {
    "hf": hf, "torchvision": torchvision, "timm": timm, "ultralytics": ultralytics, "monai": monai
}  # fmt: skip
