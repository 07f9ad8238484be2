"""``torchext cam``."""

from __future__ import annotations

import argparse
import importlib
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import chain, count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn.modules.utils import consume_prefix_in_state_dict_if_present

from torchext._cli import CommandError
from torchext._core.progress import can_show_progress, tqdm, with_progress
from torchext.cam import pictures as _pictures
from torchext.cam.draw import model_input, overlay
from torchext.cam.explain import CAM, METHODS, Method
from torchext.cam.inputs import check_not_nan
from torchext.cam.metrics import Probability, class_probabilities
from torchext.cam.probe import in_eval_mode
from torchext.cam.targets import class_scores

if TYPE_CHECKING:
    from PIL.Image import Image

HELP = "explain photos: draw the class activation maps of a classifier over them"
DESCRIPTION = """\
Explain photos: draw the class activation map of each over it, in colours. If no position of the layer raises the score
of the class, the map is 0 everywhere: the picture then has one colour over the whole photo, and the line that is
printed for it says so."""
EXAMPLES = """\
examples:
  torchext cam cat.jpg coffee.jpg --model timm:resnet18
  torchext cam photos/ --model torchvision:swin_t --method scorecam --out explained/
  torchext cam cat.jpg --model my_project.models:build --weights best.pth --layer layer4 --target 281 --compare
"""

_ENDING = "_cam.png"
_COLUMNS = 4
_COMPARED_WIDTH = 320
_PARALLEL = "module."  # the prefix of all names if a model was saved inside of DataParallel


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the command."""
    parser.add_argument("photos", nargs="+", type=Path, metavar="PHOTO", help="image files, or folders of them")
    parser.add_argument(
        "--model",
        required=True,
        metavar="WHERE:NAME",
        help="timm:NAME, torchvision:NAME, or MODULE:CALLABLE that returns a torch.nn.Module",
    )
    parser.add_argument(
        "--weights",
        type=Path,
        metavar="FILE",
        help="a state dict, or a checkpoint with one (.pth, .pt, .safetensors); without it, timm and torchvision load "
        "their pretrained weights",
    )
    parser.add_argument(
        "--layer", action="append", metavar="NAME", help="dotted name; may be repeated; default: found automatically"
    )
    parser.add_argument("--target", type=int, metavar="N", help="class to explain; default: the top class")
    parser.add_argument(
        "--probability",
        choices=("softmax", "sigmoid"),
        default="softmax",
        help="the printed probability: sigmoid is for models of independent labels, and is always used for models "
        "with a single score; default: %(default)s",
    )
    methods = parser.add_mutually_exclusive_group()
    methods.add_argument("--method", choices=METHODS, default="gradcam", metavar="M", help=", ".join(METHODS))
    methods.add_argument("--compare", action="store_true", help="all methods side by side in one picture")
    parser.add_argument("--out", type=Path, default=Path("cams"), metavar="DIR", help="default: %(default)s")
    parser.add_argument("--device", default="cpu", help="where the model runs; default: %(default)s")


def run(options: argparse.Namespace) -> int:
    """Explain all photos; the status is 1 if one of them could not be read."""
    with _as_command_errors(ImportError, "Pillow"):
        readable = _pictures.readable_endings()
    photos = list(_find_photos(options.photos, readable, options.out.resolve()))
    if not photos:
        raise CommandError(f"PHOTO: no photo in {', '.join(map(str, options.photos))}")
    # These checks are before the model is loaded, which may be a download.
    with _as_command_errors((RuntimeError, AssertionError), "--device"):
        torch.empty(1, device=options.device)
    with _as_command_errors(OSError, "--out"):
        options.out.mkdir(parents=True, exist_ok=True)
    model = _load_model(options.model, options.weights).to(options.device)
    names = _Names(options.out)
    explain = _Explainer(model, options)
    skipped = 0
    show_bar = len(photos) > 1 and sys.stderr.isatty() and can_show_progress()
    say = tqdm().write if show_bar else print  # print would write into the progress bar
    with in_eval_mode(model):
        for path in with_progress(photos, "photos", show_bar):
            try:
                photo = _pictures.read_photo("PHOTO", path)
            except (OSError, ValueError) as error:
                say(f"torchext: skipped: {error}", file=sys.stderr)
                skipped += 1
                continue
            with _as_command_errors((ValueError, IndexError, TypeError, RuntimeError), f"{path}"):
                picture, target, probability, zero = explain(photo)
            save_path = names.of(path)
            with _as_command_errors(OSError, "--out"):
                picture.save(save_path)
            remark = f", no position of the layer raises the score: the map is 0 ({', '.join(zero)})" if zero else ""
            say(f"{path}: class {target}, probability {probability:.2f}, {save_path}{remark}")
    if skipped:
        print(f"torchext: {skipped} of {len(photos)} photos skipped", file=sys.stderr)
    return int(skipped > 0)


@contextmanager
def _as_command_errors(kinds: type[Exception] | tuple[type[Exception], ...], about: str) -> Iterator[None]:
    """Convert exceptions of these types to a `CommandError` with their text on one line."""
    try:
        yield
    except kinds as error:
        raise CommandError(f"{about}: {' '.join(str(error).split())}") from error


class _Names:
    """Unique file names in a folder, also for file systems that ignore case."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._taken: set[str] = set()

    def of(self, photo: Path) -> Path:
        numbered = (f"{photo.stem}{number}{_ENDING}" for number in chain([""], (f"_{n}" for n in count(2))))
        name = next(name for name in numbered if name.casefold() not in self._taken)
        self._taken.add(name.casefold())
        return self._folder / name


def _find_photos(paths: list[Path], endings: set[str], out: Path) -> Iterator[Path]:
    """The given files, and all readable images in the given folders except the pictures of an earlier run."""

    def is_photo(file: Path) -> bool:
        is_result = file.name.endswith(_ENDING) and file.parent.resolve() == out
        return file.suffix.lower() in endings and not is_result and file.is_file()

    for path in paths:
        if path.is_dir():
            yield from sorted(filter(is_photo, path.rglob("*")))
        else:
            yield path  # a file that is missing or not an image is reported when it is read


def _load_model(name: str, weights: Path | None) -> nn.Module:
    where, _, what = name.partition(":")
    if not what:
        raise CommandError(f"--model: expected timm:NAME, torchvision:NAME or MODULE:CALLABLE, got {name!r}")
    with _as_command_errors(Exception, "--model"):
        if where == "timm":
            model = _package("timm").create_model(what, pretrained=weights is None)
        elif where == "torchvision":
            model = _package("torchvision.models").get_model(what, weights="DEFAULT" if weights is None else None)
        else:
            model = _from_module(where, what)
    if not isinstance(model, nn.Module):
        raise CommandError(f"--model: expected {name} to give a torch.nn.Module, got {type(model).__name__}")
    if weights is not None:
        with _as_command_errors(Exception, "--weights"):
            state = _state_dict(weights)
            if not any(name.startswith(_PARALLEL) for name in model.state_dict()):
                consume_prefix_in_state_dict_if_present(state, _PARALLEL)
            model.load_state_dict(state)
    return model


def _package(module: str) -> Any:
    """Import a module of an optional package."""
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(f"{error}; pip install {package}") from error


def _from_module(module: str, name: str) -> Any:
    if os.getcwd() not in sys.path:  # python -m adds the current folder, the console script does not
        sys.path.insert(0, os.getcwd())
    build: Callable[[], Any] = getattr(importlib.import_module(module), name)
    return build()


def _state_dict(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return _package("safetensors.torch").load_file(path)
    loaded = torch.load(path, map_location="cpu", weights_only=True)
    for key in ("state_dict", "model_state_dict", "model"):
        if isinstance(loaded, dict) and isinstance(loaded.get(key), dict):
            return loaded[key]
    return loaded


class _Explainer:
    """Explains photos. If no layer is given, it is found with the first photo."""

    def __init__(self, model: nn.Module, options: argparse.Namespace) -> None:
        self._model = model
        self._methods: tuple[Method, ...] = METHODS if options.compare else (options.method,)
        self._compare: bool = options.compare
        self._target: int | None = options.target
        self._layers: Sequence[str] | None = options.layer
        self._probability: Probability = options.probability

    def __call__(self, photo: Image) -> tuple[Image, int, float, list[Method]]:
        """The picture of a photo, the class that it explains, its probability, and the methods whose map is 0."""
        input = model_input(self._model, photo)
        if self._compare:
            photo = photo.resize((_COMPARED_WIDTH, max(1, round(_COMPARED_WIDTH * photo.height / photo.width))))
        pixels = _pictures.to_tensor(photo).unsqueeze(0)
        pictures = [("photo", photo)]
        zero: list[Method] = []
        cam: CAM
        for method in self._methods:
            cam = CAM(self._model, self._layers, method=method, size=(photo.height, photo.width))
            heat = cam(input, self._target).float().cpu()
            check_not_nan(heat)
            if not heat.any():
                zero.append(method)
            self._layers = cam.layers
            pictures.append((method, _pictures.to_image(overlay(pixels, heat)[0])))
        classes = cam.targets
        assert isinstance(classes, Tensor)
        target = int(classes[0])
        probability = float(class_probabilities(class_scores(cam.output), self._probability)[0, target])
        picture = _pictures.side_by_side(pictures, _COLUMNS) if self._compare else pictures[1][1]
        return picture, target, probability, zero
