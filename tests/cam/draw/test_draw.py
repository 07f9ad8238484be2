"""Tests of draw_cam, and of torchext cam on the command line."""

from __future__ import annotations

import math
import re
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from PIL import Image
from torch import nn

import torchext
from tests import ROOT, models
from tests.models import classifier
from torchext._cli import main
from torchext._cli.cam import _Names
from torchext.cam import layers, pictures
from torchext.cam.draw import model_input


@pytest.fixture
def photo(tmp_path: Path) -> Path:
    pixels = torch.randint(0, 256, (20, 30, 3), dtype=torch.uint8)
    path = tmp_path / "photo.png"
    Image.frombytes("RGB", (30, 20), bytes(pixels.flatten().tolist())).save(path)
    return path


def broken_dds(path: Path) -> Path:
    """An image for which Pillow raises neither an OSError nor a ValueError."""
    Image.new("RGB", (4, 4)).save(path)
    content = bytearray(path.read_bytes())
    content[80:84] = (4).to_bytes(4, "little")  # a flag for a pixel format named by four letters, which are missing
    path.write_bytes(content)
    return path


@pytest.fixture(autouse=True)
def _no_display(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)


def test_the_picture_is_the_overlay_of_map_and_photo(photo: Path, tmp_path: Path) -> None:
    model = classifier()
    picture = torchext.draw_cam(model, photo, tmp_path / "seen.png", layer="3", targets=2)
    opened = Image.open(photo).convert("RGB")
    pixels = torch.tensor(list(opened.resize((224, 224), Image.Resampling.BILINEAR).tobytes())).view(224, 224, 3)
    mean, std = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
    batch = ((pixels / 255 - mean) / std).movedim(-1, 0)[None]
    heat = torchext.CAM(model, "3", size=(20, 30))(batch, 2)
    original = torch.tensor(list(opened.tobytes()), dtype=torch.uint8).view(20, 30, 3).movedim(-1, 0)[None]
    expected = (0.4 * torchext.overlay(original * 0, heat, alpha=1.0)[0] + original[0]).round().clamp(max=255).byte()
    expected = expected.movedim(0, -1)
    assert picture.tobytes() == bytes(expected.flatten().tolist())
    assert Image.open(tmp_path / "seen.png").tobytes() == picture.tobytes()


def test_a_given_transform_and_the_config_of_the_model_are_used(photo: Path, tmp_path: Path) -> None:
    seen: list[torch.Tensor] = []
    model = classifier()
    model.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    torchext.draw_cam(
        model, photo, tmp_path / "a.png", lambda image: torch.ones(3, image.height, image.width), layer="3"
    )
    assert torch.equal(seen[0], torch.ones(1, 3, 20, 30))
    seen.clear()
    model.pretrained_cfg = {
        "input_size": (3, 16, 24),
        "mean": (0.5,) * 3,
        "std": (0.5,) * 3,
        "interpolation": "bicubic",
    }
    torchext.draw_cam(model, photo, tmp_path / "b.png", layer="3")
    assert seen[0].shape == (1, 3, 16, 24)
    assert -1 <= float(seen[0].min()) < 0 < float(seen[0].max()) <= 1
    seen.clear()
    model.pretrained_cfg = dict.fromkeys(model.pretrained_cfg)  # without values
    torchext.draw_cam(model, photo, tmp_path / "c.png", layer="3")
    first = seen[0]
    seen.clear()
    del model.pretrained_cfg
    torchext.draw_cam(model, photo, tmp_path / "d.png", layer="3")
    assert torch.equal(first, seen[0])


def test_the_model_runs_in_eval_mode_and_its_modes_are_restored(photo: Path, tmp_path: Path) -> None:
    model = classifier().train()
    model[1].eval()
    modes = [module.training for module in model.modules()]
    torchext.draw_cam(model, photo, tmp_path / "a.png")
    assert [module.training for module in model.modules()] == modes
    expected = torchext.draw_cam(model.eval(), photo, tmp_path / "b.png")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert expected.size == (30, 20)


def test_without_a_display_the_heat_map_is_saved_next_to_the_picture(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torchext.draw_cam(classifier(), photo, tmp_path / "seen.jpg", None, True)
    assert Image.open(tmp_path / "seen_heatmap.jpg").size == (30, 20)
    shown: list[Any] = []
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(Image.Image, "show", lambda self, title=None: shown.append(self))
    torchext.draw_cam(classifier(), photo, tmp_path / "other.jpg", visual_heatmap=True)
    assert shown[0].size == (30, 20)
    assert not (tmp_path / "other_heatmap.jpg").exists()


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "I;16", "CMYK", "1", "LA"])
def test_photos_of_every_kind(mode: str, tmp_path: Path) -> None:
    path = tmp_path / ("photo.tif" if mode == "CMYK" else "photo.png")
    (Image.new("I;16", (8, 6), 4000) if mode == "I;16" else Image.new("RGB", (8, 6), "teal").convert(mode)).save(path)
    assert torchext.draw_cam(classifier(), path, tmp_path / "seen.png").mode == "RGB"


@pytest.mark.parametrize("level", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("position", [(0, 0), (3, 2)])
def test_grey_levels_that_are_not_finite_are_refused(level: float, position: tuple[int, int], tmp_path: Path) -> None:
    grey = Image.linear_gradient("L").resize((8, 6)).convert("F")
    grey.putpixel(position, level)
    grey.save(tmp_path / "photo.tif")
    message = (
        r"^photo: expected an image that Pillow reads, got .*photo.tif' \(ValueError: its grey levels are not finite\)$"
    )
    with pytest.raises(ValueError, match=message):
        pictures.read_photo("photo", tmp_path / "photo.tif")


def test_photos_are_rotated_by_their_exif_orientation(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.new("RGB", (30, 20)).save(tmp_path / "photo.jpg", exif=exif)
    assert torchext.draw_cam(classifier(), tmp_path / "photo.jpg", tmp_path / "seen.png").size == (20, 30)


def test_errors_name_the_argument(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, out = classifier(), tmp_path / "seen.png"
    text = tmp_path / "text.png"
    text.write_text("no image")
    broken = tmp_path / "broken.png"
    broken.write_bytes(photo.read_bytes()[:200])
    unknown = broken_dds(tmp_path / "unknown.dds")
    maps = nn.Sequential(nn.Conv2d(3, 4, 3))
    numberless = classifier()
    numberless[0].weight.data.fill_(torch.nan)
    cases: list[tuple[tuple[Any, ...], dict[str, Any], type[Exception], str]] = [
        (
            (model, tmp_path / "none.png", out),
            {},
            FileNotFoundError,
            "img_path: expected an existing file.*none.png",
        ),
        ((model, text, out), {}, ValueError, "img_path: expected an image that Pillow reads, got .*text.png"),
        ((model, broken, out), {}, ValueError, "img_path: expected an image that Pillow reads, got .*broken.png"),
        (
            (model, unknown, out),
            {},
            ValueError,
            "img_path: expected an image that Pillow reads, .*unknown.dds.*Unimplemented",
        ),
        (
            (model, photo, tmp_path / "no" / "seen.png"),
            {},
            FileNotFoundError,
            "save_path: expected .* existing folder, got .*no",
        ),
        ((model, photo, tmp_path / "seen.cam"), {}, ValueError, "save_path: expected the ending of an image format"),
        # Pillow only reads this format. The error is raised before the photo is read.
        ((model, tmp_path / "none.png", tmp_path / "seen.psd"), {}, ValueError, "save_path: .* got 'seen.psd'"),
        # Pillow knows these formats, but has no writer for them, or none for colours.
        ((model, photo, tmp_path / "seen.h5"), {}, ValueError, "save_path: .* got 'seen.h5'"),
        ((model, photo, tmp_path / "seen.xbm"), {}, ValueError, "save_path: .* got 'seen.xbm'"),
        ((model, 5, out), {}, TypeError, "img_path: expected a path, got int"),
        ((model, photo, None), {}, TypeError, "save_path: expected a path, got NoneType"),
        (
            (maps, photo, out),
            {"layer": "0"},
            ValueError,
            r"model: expected float scores \(B, classes\), got .* \(1, 4, 222",
        ),
        ((model, photo, out), {"layer": "7"}, ValueError, r"layer: expected an output .* got \(B, 5\) from '7'"),
        ((model, photo, out), {"targets": [[1, 2]]}, ValueError, "targets: expected one target"),
        ((numberless, photo, out), {}, ValueError, "model: expected scores and activations that are numbers, got a"),
        ((model, photo, out), {"transform": 3}, TypeError, "transform: expected a function"),
        (
            (model, photo, out, lambda image: image),
            {},
            TypeError,
            "transform: expected a function that returns a tensor",
        ),
        (("model", photo, out), {}, TypeError, "model: expected a torch.nn.Module, got str"),
    ]
    for args, options, error, message in cases:
        with pytest.raises(error, match=message):
            torchext.draw_cam(*args, **options)
    assert not out.exists()
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ImportError, match=r"pip install 'torchext-ops\[image\]'"):
        torchext.draw_cam(model, photo, out)


# The command line.

MODEL = ["--model", "models:classifier"]


@pytest.fixture
def _importable_models(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "tests"))


@pytest.mark.usefixtures("_importable_models")
def test_a_folder_with_a_bad_file(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "photos"
    (folder / "more").mkdir(parents=True)
    for name in ("a.png", "more/a.png", "more/b.png"):
        (folder / name).write_bytes(photo.read_bytes())
    (folder / "bad.jpg").write_text("no image")
    broken_dds(folder / "broken.dds")
    for name in ("notes.txt", "paper.pdf"):  # Pillow writes PDF files, but does not read them
        (folder / name).write_text("left alone")
    out = tmp_path / "out"
    arguments = ["cam", str(folder), *MODEL, "--layer", "3", "--target", "2", "--out", str(out)]
    assert main(arguments) == 1
    assert sorted(file.name for file in out.iterdir()) == ["a_2_cam.png", "a_cam.png", "b_cam.png"]
    printed = capsys.readouterr()
    assert "class 2, probability 0." in printed.out
    assert "skipped: PHOTO: expected an image that Pillow reads" in printed.err
    assert "2 of 5 photos skipped" in printed.err
    (folder / "bad.jpg").unlink()
    (folder / "broken.dds").unlink()
    assert main(arguments) == 0


@pytest.mark.usefixtures("_importable_models")
def test_lines_are_printed_above_the_progress_bar(
    photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A line that is printed while tqdm draws its bar would be appended to the bar."""
    written: list[tuple[str, str]] = []

    class Bar(list[Path]):
        def __init__(self, items: list[Path], desc: str, leave: bool) -> None:
            super().__init__(items)

        @staticmethod
        def write(text: str, file: Any = None) -> None:
            written.append(("err" if file is sys.stderr else "out", text.partition(":")[0]))

    fake = ModuleType("tqdm.auto")
    fake.tqdm = Bar
    monkeypatch.setitem(sys.modules, "tqdm", ModuleType("tqdm"))
    monkeypatch.setitem(sys.modules, "tqdm.auto", fake)
    monkeypatch.setattr("torchext._cli.cam.can_show_progress", lambda: True)
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bad = tmp_path / "bad.jpg"
    bad.write_text("no image")
    assert main(["cam", str(photo), str(bad), *MODEL, "--out", str(tmp_path / "out")]) == 1
    assert written == [("out", str(photo)), ("err", "torchext")]
    printed = capsys.readouterr()
    assert (printed.out, printed.err) == ("", "torchext: 1 of 2 photos skipped\n")


@pytest.mark.usefixtures("_importable_models")
@pytest.mark.parametrize("out", [".", "cams"])
def test_pictures_of_an_earlier_run_are_not_explained(
    out: str, photo: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(photo.parent)
    printed = []
    for _ in range(2):
        torch.manual_seed(0)  # the model is random
        assert main(["cam", ".", *MODEL, "--out", out]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1]
    assert printed[0].startswith("photo.png: class ")


@pytest.mark.usefixtures("_importable_models")
def test_the_layer_is_searched_once(photo: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    find, found = layers.find, []
    monkeypatch.setattr(layers, "find", lambda *args: found.append(find(*args)) or found[-1])
    assert main(["cam", str(photo), str(photo), *MODEL, "--compare", "--out", str(tmp_path / "out")]) == 0
    assert [call.name for call, _ in found] == ["4"]


def test_file_names_of_pictures_are_unique(tmp_path: Path) -> None:
    names = _Names(tmp_path)
    photos = [Path(name) for name in ("a.jpg", "a.png", "more/a_2.jpg", "A.gif")]
    expected = ["a_cam.png", "a_2_cam.png", "a_2_2_cam.png", "A_3_cam.png"]
    assert [names.of(photo).name for photo in photos] == expected


@pytest.mark.usefixtures("_importable_models")
@pytest.mark.parametrize("key", [None, "state_dict", "model_state_dict", "model"])
@pytest.mark.parametrize("parallel", [False, True])
def test_weights_are_found_in_checkpoints(key: str | None, parallel: bool, photo: Path, tmp_path: Path) -> None:
    torch.manual_seed(7)
    model, out = classifier(), tmp_path / "out"
    saved = (nn.DataParallel(model) if parallel else model).state_dict()
    torch.save({key: saved, "epoch": 3} if key else saved, tmp_path / "w.pth")
    assert main(["cam", str(photo), *MODEL, "--weights", str(tmp_path / "w.pth"), "--out", str(out)]) == 0
    opened = pictures.read_photo("photo", photo)
    heat = torchext.CAM(model, size=(20, 30))(model_input(model, opened))
    expected = torchext.overlay(pictures.to_tensor(opened)[None], heat)[0]
    assert Image.open(out / "photo_cam.png").tobytes() == pictures.to_image(expected).tobytes()


@pytest.mark.usefixtures("_importable_models")
def test_a_probability_is_that_of_the_option_and_a_single_scores_is_its_sigmoid(
    photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    weights = tmp_path / "weights.pth"
    arguments = ["cam", str(photo), "--weights", str(weights), "--out", str(tmp_path / "out"), "--model"]
    for build, options, target, probability in (
        ("binary_classifier", [], 0, torch.sigmoid),
        ("classifier", [], 3, lambda scores: scores.softmax(1)),
        ("classifier", ["--probability", "sigmoid"], 3, torch.sigmoid),
    ):
        model = getattr(models, build)()
        model[-1].bias.data += torch.arange(len(model[-1].bias)).eq(target) * 0.7
        torch.save(model.state_dict(), weights)
        assert main([*arguments, f"models:{build}", "--target", str(target), *options]) == 0
        with torch.no_grad():
            scores = model(model_input(model, pictures.read_photo("photo", photo)))
        expected = f"class {target}, probability {float(probability(scores)[0, target]):.2f}, "
        assert expected in capsys.readouterr().out


@pytest.mark.usefixtures("_importable_models")
def test_a_map_that_is_zero_is_said(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights, out = tmp_path / "weights.pth", tmp_path / "out"
    model = classifier()
    model[-1].weight.data = -model[-1].weight.data.abs()  # the activations are not negative
    torch.save(model.state_dict(), weights)
    arguments = ["cam", str(photo), *MODEL, "--weights", str(weights), "--out", str(out), "--target", "2"]
    for options, methods in (
        ([], "gradcam"),
        (["--method", "layercam"], "layercam"),
        (["--compare"], "gradcam, gradcam++, xgradcam, layercam, hirescam, gradcam_elementwise, ablationcam"),
    ):
        assert main([*arguments, *options]) == 0
        line = capsys.readouterr().out
        assert line.endswith(f"_cam.png, no position of the layer raises the score: the map is 0 ({methods})\n")
    model[-1].weight.data.abs_()
    torch.save(model.state_dict(), weights)
    assert main(arguments) == 0
    assert capsys.readouterr().out.endswith("_cam.png\n")


@pytest.mark.usefixtures("_importable_models")
def test_a_map_with_nan_is_an_error(photo: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    model = classifier()
    model[0].weight.data.fill_(torch.nan)
    torch.save(model.state_dict(), tmp_path / "w.pth")
    assert main(["cam", str(photo), *MODEL, "--weights", str(tmp_path / "w.pth"), "--out", str(tmp_path)]) == 2
    assert capsys.readouterr().err.endswith(
        "model: expected scores and activations that are numbers, got a map with NaN\n"
    )


@pytest.mark.usefixtures("_importable_models")
def test_weights_and_all_methods_in_one_picture(photo: Path, tmp_path: Path) -> None:
    weights = tmp_path / "weights.pth"
    torch.save({"state_dict": classifier().state_dict()}, weights)
    arguments = ["cam", str(photo), *MODEL, "--weights", str(weights), "--out", str(tmp_path / "out"), "--compare"]
    assert main(arguments) == 0
    with pytest.raises(SystemExit, match="2"):
        main([*arguments, "--method", "scorecam"])
    sheet = Image.open(tmp_path / "out" / "photo_cam.png")
    assert sheet.width > 4 * 320
    assert sheet.height > 3 * 213  # the photo and nine methods, in rows of four


@pytest.mark.usefixtures("_importable_models")
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "resnet18"], "--model: expected timm:NAME, torchvision:NAME or MODULE:CALLABLE, got 'resnet18'"),
        (["--model", "no_such_module:build"], "--model: No module named 'no_such_module'"),
        (["--model", "timm:resnet18"], "--model: .*; pip install timm"),
        (["--model", "math:pi"], "--model: 'float' object is not callable"),
        ([*MODEL, "--weights", "none.pth"], "--weights: .*none.pth"),
        ([*MODEL, "--layer", "nine"], "layer: expected a module of the model, whose children are 0, 1"),
        ([*MODEL, "--target", "9"], r"targets: expected classes in \[0, 5\), got \[9\]"),
        ([*MODEL, "--weights", "other.pth"], r"--weights: Error\(s\) in loading .* Missing key\(s\)"),
        ([*MODEL, "--device", "foo"], "--device: .*foo"),
        ([*MODEL, "--out", "photo.png"], "--out: .*File exists: 'photo.png'"),
        ([*MODEL, "empty"], "PHOTO: no photo in empty"),
    ],
)
def test_wrong_options_are_reported(
    arguments: list[str],
    message: str,
    photo: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(photo.parent)
    Path("empty").mkdir()
    torch.save({"another": torch.zeros(1)}, "other.pth")
    monkeypatch.setitem(sys.modules, "timm", None)
    photos = [] if "empty" in arguments else [photo.name]
    assert main(["cam", *photos, *arguments]) == 2
    assert re.fullmatch(rf"torchext: (photo\.png: )?{message}.*\n", capsys.readouterr().err)


def test_python_m_torchext() -> None:
    for arguments, expected in (
        (["doctor"], "cam_pool"),
        (["--help"], "doctor"),
        (["cam", "--help"], "torchext cam cat.jpg coffee.jpg --model timm:resnet18"),
        (["doctor", "--help"], "examples:"),
    ):
        command = [sys.executable, "-m", "torchext", *arguments]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        assert expected in done.stdout
