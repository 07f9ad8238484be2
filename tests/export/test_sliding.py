"""sliding_window in programs: one call of the model for each batch of windows of an image of fixed size, or for all."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

import torchext


class Slides(torch.nn.Module):
    def __init__(self, options: dict[str, Any]) -> None:
        super().__init__()
        self.network, self.options = torch.nn.Conv2d(3, 5, 3, padding=1), options

    def forward(self, image: Tensor) -> Tensor:
        return torchext.sliding_window(self.network, image, 16, **self.options)


OPTIONS: tuple[dict[str, Any], ...] = ({}, {"overlap": 0.5, "weight": "hann"}, {"argmax": True}, {"halo": 2})


@pytest.mark.parametrize("options", OPTIONS, ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 40, 50), (1, 3, 9, 30)], ids=str)
def test_an_exported_program_mutates_nothing(options: dict[str, Any], shape: tuple[int, ...]) -> None:
    model, image = Slides(options).eval(), torch.randn(shape)
    with torch.no_grad():
        program = torch.export.export(model, (image,))
        targets = [node.target for node in program.graph.nodes if isinstance(node.target, torch._ops.OpOverload)]
        assert not any(target._schema.is_mutable for target in targets)
        torch.testing.assert_close(program.module()(image), model(image))


ANY_SIZE = ({0: torch.export.Dim.DYNAMIC, 2: torch.export.Dim.DYNAMIC, 3: torch.export.Dim.DYNAMIC},)
OTHER_SIZES = ((1, 3, 17, 40), (3, 3, 40, 50), (2, 3, 64, 33))
OF_ANY_SIZE: tuple[dict[str, Any], ...] = (
    *OPTIONS[:3],
    {"overlap": 0, "weight": None},
    {"weight": torch.rand(16, 16)},
)


@pytest.mark.parametrize("options", OF_ANY_SIZE, ids=lambda options: ", ".join(options))
def test_an_exported_program_takes_images_of_any_size(options: dict[str, Any]) -> None:
    model = Slides(options).eval()
    with torch.no_grad():
        program = torch.export.export(model, (torch.randn(2, 3, 40, 50),), dynamic_shapes=ANY_SIZE)
        for shape in OTHER_SIZES:
            image = torch.randn(shape)
            torch.testing.assert_close(program.module()(image), model(image))


def test_an_exported_program_for_any_size_has_several_outputs() -> None:
    class Two(torch.nn.Module):
        def forward(self, image: Tensor) -> dict[str, Tensor]:
            return torchext.sliding_window(lambda x: {"same": x, "twice": 2 * x.half()}, image, 16, overlap=0.5)

    program = torch.export.export(Two(), (torch.randn(2, 3, 40, 50),), dynamic_shapes=ANY_SIZE)
    image = torch.randn(OTHER_SIZES[0])
    torch.testing.assert_close(program.module()(image), Two()(image))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"halo": 2}, "halo: expected the default in a program for images of any size; export with static sizes"),
        ({"scale": 1}, "scale: expected the default"),
        ({"skip": lambda window: False}, "skip: expected the default"),
    ],
)
def test_options_that_require_the_number_of_windows_are_refused_for_any_size(
    options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        torch.export.export(Slides(options).eval(), (torch.randn(2, 3, 40, 50),), dynamic_shapes=ANY_SIZE)


def test_outputs_of_another_resolution_are_refused_for_any_size() -> None:
    class Halves(torch.nn.Module):
        def forward(self, image: Tensor) -> Tensor:
            return torchext.sliding_window(lambda x: x[..., ::2, ::2], image, 16)

    with pytest.raises(ValueError, match=r"output of the spatial size of a window .*torchext\.window_grid"):
        torch.export.export(Halves(), (torch.randn(2, 3, 40, 50),), dynamic_shapes=ANY_SIZE)


def test_a_model_of_onnx_takes_images_of_any_size() -> None:
    pytest.importorskip("onnxscript", reason="in requirements/dev.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements/dev.txt")
    model, example = Slides({"overlap": 0.5}).eval(), torch.randn(2, 3, 40, 50)
    with torch.no_grad():
        program = torch.onnx.export(model, (example,), dynamo=True, dynamic_shapes=ANY_SIZE, verbose=False)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for shape in OTHER_SIZES:
        image = torch.randn(shape)
        (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
        torch.testing.assert_close(torch.from_numpy(found), model(image).detach())


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_onnxruntime_returns_the_result(options: dict[str, Any]) -> None:
    pytest.importorskip("onnxscript", reason="in requirements/dev.txt")
    onnxruntime = pytest.importorskip("onnxruntime", reason="in requirements/dev.txt")
    model, image = Slides(options).eval(), torch.randn(1, 3, 40, 50)
    with torch.no_grad():
        program, expected = torch.onnx.export(model, (image,), dynamo=True, verbose=False), model(image)
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    (found,) = session.run(None, {session.get_inputs()[0].name: image.numpy()})
    torch.testing.assert_close(torch.from_numpy(found), expected)
