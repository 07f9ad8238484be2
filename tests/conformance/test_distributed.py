"""DTensors: each rank computes its own samples, and the whole result equals that without DTensors."""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor

import torchext
from tests.conformance.rooms import OPERATIONS
from tests.conformance.table import Operation, Sample, outputs, requiring_grad, total
from tests.models import classifier
from torchext._core import sharding

if TYPE_CHECKING:
    from torch.distributed.device_mesh import DeviceMesh

pytestmark = pytest.mark.skipif(not torch.distributed.is_available(), reason="PyTorch without torch.distributed")


def _sharded_batches(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Partial, Replicate, Shard, distribute_tensor

    for operation in OPERATIONS:
        for sample in operation.samples if operation.functional else ():
            if not sample.shapes[0] or not sample.shapes[0][0]:
                continue
            tensors = operation.arguments(sample, "cpu")
            expected = operation.function(*tensors, **sample.options)
            for placement in (Shard(0), Replicate()):
                whole = [Replicate()]  # a scalar cannot be sharded
                shared = [distribute_tensor(tensor, mesh, [placement] if tensor.dim() else whole) for tensor in tensors]
                out = outputs(operation.function(*shared, **sample.options))
                name = f"{operation.name} {sample.name} {placement}"
                assert [one.shape for one in out] == [one.shape for one in outputs(expected)], name
                if placement == Replicate():
                    assert all(one.placements == (placement,) for one in out), name
                gathered = tuple(one.full_tensor() for one in out)
                torch.testing.assert_close(gathered, outputs(expected), msg=name)
                if operation.differentiable:
                    _check_gradient(operation.function, tensors, shared, sample.options)
        for call in operation.sharded:
            tensors = operation.arguments(call.sample, "cpu")
            placed = [Replicate() if dim is None else Shard(dim) for dim in call.arguments]
            shared = [distribute_tensor(tensor, mesh, [one]) for tensor, one in zip(tensors, placed, strict=True)]
            place = Partial() if call.result == "partial" else Shard(call.result)
            found, expected = (outputs(operation.function(*args, **call.sample.options)) for args in (shared, tensors))
            assert all(one.placements == (place,) for one in found), operation.name
            torch.testing.assert_close(tuple(one.full_tensor() for one in found), expected)


def _check_gradient(function: object, tensors: list[Tensor], shared: list[Tensor], options: dict[str, object]) -> None:
    plain, leaves = requiring_grad(tensors), requiring_grad(shared)
    for arguments in (plain, leaves):
        total(function(*arguments, **options), power=2).backward()
    for one, other in zip(plain, leaves, strict=True):
        if one.requires_grad:
            torch.testing.assert_close(other.grad.full_tensor(), one.grad)


def _in_two_processes(run: Callable[[DeviceMesh], None]) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_rank, args=(run, port), nprocs=2)


def _rank(rank: int, run: Callable[[DeviceMesh], None], port: int) -> None:
    import torch.distributed as dist
    from torch.distributed.device_mesh import init_device_mesh

    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port), RANK=str(rank), WORLD_SIZE="2")
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    run(init_device_mesh("cpu", (2,)))
    dist.barrier()  # no rank ends while another still communicates with it
    sys.stdout.flush()
    # A thread of gloo may still hold a tensor of the last collective. It aborts the process when it releases the
    # tensor while the interpreter shuts down, so the interpreter does not shut down.
    os._exit(0)


def test_operations_run_on_sharded_batches() -> None:
    _in_two_processes(_sharded_batches)


def _other_sizes(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    # DTensor caches the shape of a result by the arguments of the call.
    for operation, sample in ((o, s) for o in OPERATIONS for s in o.other_sizes):
        tensors = operation.arguments(sample, "cpu")
        of_batch = [sample.batched or tensor.dtype.is_floating_point for tensor in tensors]
        shared = [
            distribute_tensor(tensor, mesh, [Shard(0) if shards else Replicate()])
            for tensor, shards in zip(tensors, of_batch, strict=True)
        ]
        out, expected = (operation.function(*args, **sample.options) for args in (shared, tensors))
        assert out.shape == expected.shape, f"{operation.name} {sample.name}"
        assert out.placements == (Shard(0),), f"{operation.name} {sample.name}"
        torch.testing.assert_close(out.full_tensor(), expected, msg=f"{operation.name} {sample.name}")


def test_sharded_calls_with_other_sizes_have_other_shapes() -> None:
    _in_two_processes(_other_sizes)


def test_a_sharding_rule_requires_an_int_before_lists_of_sizes() -> None:
    with pytest.raises(ValueError, match=r"aten\.permute\.default: expected an int before the list dims"):
        sharding.add(torch.ops.aten.permute.default, sharding.by_first)


def _classes(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for labels in ([0, 1, 4, 255], [4, 255, 0, 1], [3]):  # the last one leaves a rank without a label
        whole = torch.tensor(labels, dtype=torch.uint8)
        for placement in (Shard(0), Replicate()):
            shared = distribute_tensor(whole, mesh, [placement])
            for options in ({}, {"ignore_index": 255}):
                expected = torchext.one_hot(whole, **options)
                out = torchext.one_hot(shared, **options)
                assert out.shape == expected.shape
                assert torch.equal(out.full_tensor(), expected)
    # Every rank raises the error, with the position among all labels.
    beyond = distribute_tensor(torch.tensor([0, 1, 2, 2**63 - 1]), mesh, [Shard(0)])
    with pytest.raises(IndexError, match=r"label 9223372036854775807 at position \(3,\) is outside"):
        torchext.one_hot(beyond)
    with pytest.raises(ValueError, match="num_classes: expected a number of classes if there are no labels"):
        torchext.one_hot(distribute_tensor(torch.full((4,), 7), mesh, [Shard(0)]), ignore_index=7)


def test_number_of_classes_depends_on_the_labels_of_all_ranks() -> None:
    _in_two_processes(_classes)


def _compiled(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Shard, distribute_tensor

    images = torch.ones(4, 1, 8, 8)
    windows = torch.compile(lambda x: torchext.unfold(x, 2) * 2, fullgraph=True, backend="aot_eager")
    out = windows(distribute_tensor(images, mesh, [Shard(0)]))
    assert out.placements == (Shard(0),)
    torch.testing.assert_close(out.full_tensor(), torchext.unfold(images, 2) * 2)


def test_compiled_code_may_get_the_first_dtensor() -> None:
    _in_two_processes(_compiled)


def _compiled_operations(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor import Replicate, Shard, distribute_tensor

    for operation in (o for o in OPERATIONS if o.functional):
        sample = next((s for s in operation.samples if s.batched and s.shapes[0] and s.shapes[0][0]), None)
        if sample is None:
            continue

        def call(*tensors: Tensor, operation: Operation = operation, sample: Sample = sample) -> tuple[Tensor, ...]:
            return outputs(operation.function(*tensors, **sample.options))

        torch._dynamo.reset()
        tensors = operation.arguments(sample, "cpu")
        placed = [distribute_tensor(t, mesh, [Shard(0) if t.dim() else Replicate()]) for t in tensors]
        found = torch.compile(call, fullgraph=True, backend="aot_eager")(*placed)
        gathered = tuple(one.full_tensor() for one in found)
        torch.testing.assert_close(gathered, call(*tensors), msg=operation.name)


def test_operations_on_dtensors_compile_to_one_graph() -> None:
    _in_two_processes(_compiled_operations)


def _windows(mesh: DeviceMesh) -> None:
    from torch.distributed.device_mesh import init_device_mesh

    generator = torch.Generator().manual_seed(0)
    seen = 0

    def model(windows: Tensor) -> dict[str, Tensor]:
        nonlocal seen
        seen += len(windows)
        return {"sums": windows.cumsum(2), "half": torch.cat([windows, -windows], 1)[..., ::2, ::2].bfloat16()}

    for shape, size, overlap in (
        ((3, 2, 40, 50), 16, 0.7),
        ((1, 2, 9, 40), 16, 0.25),
        ((1, 2, 8, 8), 8, 0.25),
        ((1, 2, 90, 16), 16, 0.0),
    ):
        image = torch.randn(shape, generator=generator)
        for argmax in (False, True):
            options = {"overlap": overlap, "argmax": argmax}
            expected = torchext.sliding_window(model, image, size, **options)
            windows, seen = seen, 0
            shared = torchext.sliding_window(model, image, size, **options, mesh=mesh)
            torch.testing.assert_close(shared, expected)
            assert seen == max((windows + 1 - mesh.get_rank()) // 2, 1)
            seen = 0
    for shape in ((2, 2, 40, 50), (1, 2, 8, 8)):  # windows of the second are skipped by all ranks
        image = torch.randn(shape, generator=generator)
        options = {"overlap": 2, "halo": 2, "skip": lambda window: bool(window[0, 0, 0] > 0) or window.shape[1] < 16}
        expected = torchext.sliding_window(model, image, min(shape[-1], 16), **options)
        torch.testing.assert_close(
            torchext.sliding_window(model, image, min(shape[-1], 16), **options, mesh=mesh), expected
        )
    with pytest.raises(ValueError, match="mesh: expected outputs without gradients"):
        torchext.sliding_window(lambda x: x * 1, image.requires_grad_(), 4, mesh=mesh)
    with pytest.raises(ValueError, match="mesh: expected one dimension, got 2"):
        torchext.sliding_window(model, image, 4, mesh=init_device_mesh("cpu", (2, 1)))


def test_sliding_window_distributes_windows_over_a_mesh() -> None:
    _in_two_processes(_windows)


class Mixer(torch.nn.Module):
    """Tokens of patches through two linear layers."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = torch.nn.Conv2d(3, 8, 4, 4)
        self.expand, self.act, self.reduce = torch.nn.Linear(8, 16), torch.nn.GELU(), torch.nn.Linear(16, 8)
        self.norm, self.head = torch.nn.LayerNorm(8), torch.nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.embed(x).flatten(2).mT
        return self.head(self.norm(tokens + self.reduce(self.act(self.expand(tokens)))).mean(1))


def _column_parallel(mesh: DeviceMesh) -> None:
    from torch.distributed.tensor.parallel import ColwiseParallel, RowwiseParallel, parallelize_module

    torch.manual_seed(0)
    model, images = Mixer().eval(), torch.randn(2, 3, 16, 24)
    expected = {layer: torchext.CAM(model, layer)(images, 1) for layer in ("reduce", None)}
    parallelize_module(model, mesh, {"expand": ColwiseParallel(), "reduce": RowwiseParallel()})
    for layer, maps in expected.items():
        torch.testing.assert_close(torchext.CAM(model, layer)(images, 1), maps)
    for layer in ("expand", "act"):
        with pytest.raises(ValueError, match="layer: expected all channels, got those of one rank"):
            torchext.CAM(model, layer)(images, 1)


def test_a_layer_of_which_a_rank_has_some_channels_raises() -> None:
    _in_two_processes(_column_parallel)


@pytest.fixture
def alone() -> Iterator[None]:
    """A process group with only this process."""
    import torch.distributed as dist

    dist.init_process_group("gloo", rank=0, world_size=1, store=dist.HashStore())
    yield
    dist.destroy_process_group()


@pytest.mark.usefixtures("alone")
@pytest.mark.filterwarnings("ignore:the model is in training mode")
@pytest.mark.parametrize("options", [{}, {"find_unused_parameters": True}, {"static_graph": True}], ids=str)
def test_a_model_can_be_explained_between_training_steps(options: dict[str, bool]) -> None:
    model = torch.nn.parallel.DistributedDataParallel(classifier(), **options)
    images = torch.randn(2, 3, 8, 8)
    before = sorted(vars(model))

    def explain() -> None:
        model._sync_buffers = None  # a call would fail: in a real group it waits for the other ranks
        expected = torchext.CAM(model.module, "3")(images, 1)
        torch.testing.assert_close(torchext.CAM(model, "module.3")(images, 1), expected)
        torchext.metrics.average_drop(model, images, expected)
        del model._sync_buffers

    explain()
    model(images).sum().backward()
    explain()
    loss = model(images).sum()
    explain()
    loss.backward()
    model(images).sum().backward()
    assert all(parameter.grad is not None for parameter in model.parameters())
    assert sorted(vars(model)) == before
