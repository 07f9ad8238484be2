"""sliding_window in programs: one call of the model for each batch of windows, for the sizes of the export."""

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


def test_an_export_with_dynamic_sizes_is_refused() -> None:
    dynamic = {2: torch.export.Dim.DYNAMIC}
    with pytest.raises(torch._dynamo.exc.UserError, match=r"code specialized it to be a constant"):
        torch.export.export(Slides({}).eval(), (torch.randn(1, 3, 40, 50),), dynamic_shapes=(dynamic,))


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
