"""Tests of the memory of deleted results, which later results on the CPU reuse."""

from __future__ import annotations

import copy
import pickle
import threading

import pytest
import torch

import torchext
from tests.package.test_package import NATIVE, run_python

MIB = 2**20

# A result of 4 MiB.
MAKE = """
import os, sys, torch, torchext
labels = torch.zeros(1024, dtype=torch.int64)
make = lambda classes=1024: torchext.one_hot(labels, classes, dtype=torch.float32)
stats = torchext.memory_stats
"""


def one_hot(label: int = 0, classes: int = 1024) -> torch.Tensor:
    return torchext.one_hot(torch.full((1024,), label), classes, dtype=torch.float32)


def reuses() -> bool:
    """Whether results have memory of the pool: from PyTorch 2.11, with a compiled library."""
    result = one_hot()
    return torchext.memory_stats()["used_bytes"] >= result.nbytes


pytestmark = pytest.mark.skipif(not NATIVE or not reuses(), reason="requires a compiled library and PyTorch 2.11")


def test_memory_is_reused() -> None:
    torchext.empty_cache()
    before = torchext.memory_stats()
    result = one_hot(3)
    address = result.data_ptr()
    del result
    again = one_hot(5)
    after = torchext.memory_stats()
    assert again.data_ptr() == address
    assert torch.equal(again.argmax(1), torch.full((1024,), 5))
    assert again.sum() == 1024
    assert after["allocated"] - before["allocated"] == after["reused"] - before["reused"] == 1
    assert after["used_bytes"] - before["used_bytes"] == 4 * MIB


def test_a_block_is_not_much_larger_than_its_result() -> None:
    torchext.empty_cache()
    large = one_hot(classes=8192)
    address = large.data_ptr()
    del large
    assert one_hot().data_ptr() != address
    assert one_hot(classes=7168).data_ptr() == address


def test_empty_cache_returns_all_unused_memory() -> None:
    torchext.empty_cache()
    used, unused = one_hot(), one_hot()
    del unused
    assert torchext.memory_stats()["unused_bytes"] == 4 * MIB
    assert torchext.empty_cache() == 4 * MIB
    assert torchext.memory_stats()["unused_bytes"] == 0
    assert used.sum() == 1024


def test_memory_belongs_to_the_result_until_its_last_view_is_deleted() -> None:
    pytest.importorskip("numpy")
    result = one_hot(1)
    views = [torch.from_numpy(result.numpy()), result[5:], result.T]
    kept = result.clone()
    del result
    others = [one_hot(2) for _ in range(3)]
    for view, expected in zip(views, (kept, kept[5:], kept.T), strict=True):
        assert torch.equal(view, expected)
    assert len(others) == 3


@pytest.mark.parametrize(("setting", "limit"), [("0", 0), (str(8 * MIB), 8 * MIB)])
def test_unused_memory_is_bounded(setting: str, limit: int) -> None:
    code = (
        MAKE
        + "results = [make() for _ in range(5)]; del results; print(stats()['unused_bytes'], stats()['limit_bytes'])"
    )
    assert run_python(code, TORCHEXT_CPU_CACHE=setting) == f"{limit} {limit}"


def test_the_default_bound_is_between_256_mib_and_1_gib() -> None:
    assert 256 * MIB <= int(run_python(MAKE + "print(stats()['limit_bytes'])")) <= 1024 * MIB


@pytest.mark.parametrize("name", ["TORCHEXT_CPU_CACHE", "TORCHEXT_STREAM_BYTES"])
def test_a_setting_that_is_no_number_is_ignored_with_a_warning(name: str) -> None:
    code = "import warnings\nwith warnings.catch_warnings(record=True) as caught:\n  import torchext\n"
    code += "print(caught[-1].message, torchext.memory_stats()['limit_bytes'] > 0)"
    assert run_python(code, **{name: "1G"}).startswith(f"{name}=1G is ignored: expected a number")


def test_memory_that_is_not_used_for_long_is_returned() -> None:
    code = MAKE + "import time; r = make(); del r; time.sleep(10.5); r = make(2048); print(stats()['unused_bytes'])"
    assert run_python(code) == "0"


def test_unused_memory_is_returned_if_there_is_no_other() -> None:
    code = (
        MAKE
        + """
import resource
r = make(65536); del r  # 256 MiB, which are not reused for less
size = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 20),) * 2)
r = make(32768)  # 128 MiB, of the pool
before = stats()['unused_bytes']
del r; torchext.empty_cache(); resource.setrlimit(resource.RLIMIT_AS, (size + (100 << 20),) * 2)
print(before, stats()['used_bytes'])
"""
    )
    assert run_python(code, TORCHEXT_CPU_CACHE=str(512 * MIB)) == "0 0"


FORKED = (
    MAKE
    + """
torch.set_num_threads(1)  # the threads of OpenMP do not exist in a forked process
kept, unused = make(), make()
del unused
pid = os.fork()
if pid == 0:
    ok = stats()['unused_bytes'] == 0 and kept.sum() == 1024
    ok = ok and stats()['limit_bytes'] == (0 if 'TORCHEXT_CPU_CACHE' not in os.environ else 512 << 20)
    del kept
    r = make()
    os._exit(0 if ok and r.sum() == 1024 else 1)
status = os.waitpid(pid, 0)[1]
print(status, stats()['unused_bytes'], kept.sum().item(), make().sum().item())
"""
)


@pytest.mark.parametrize("environment", [{}, {"TORCHEXT_CPU_CACHE": str(512 * MIB)}])
def test_a_forked_process_has_no_unused_memory_of_its_parent(environment: dict[str, str]) -> None:
    assert run_python(FORKED, **environment) == f"0 {4 * MIB} 1024.0 1024.0"


def test_workers_of_a_data_loader_do_not_keep_memory() -> None:
    class Images(torch.utils.data.Dataset[torch.Tensor]):
        def __len__(self) -> int:
            return 4

        def __getitem__(self, index: int) -> torch.Tensor:
            assert torchext.memory_stats()["limit_bytes"] == 0
            return one_hot(index)

    for context in ("fork",):
        loader = torch.utils.data.DataLoader(Images(), batch_size=2, num_workers=2, multiprocessing_context=context)
        batches = list(loader)
        assert [batch.argmax(2).unique().tolist() for batch in batches] == [[0, 1], [2, 3]]


def test_a_spawned_process_does_not_keep_memory() -> None:
    code = """
import multiprocessing, torch, torchext
if __name__ == '__main__':
    with multiprocessing.get_context('spawn').Pool(1) as pool:
        print(pool.apply(torchext.memory_stats)['limit_bytes'])
"""
    assert run_python(code) == "0"
    assert run_python(code, TORCHEXT_CPU_CACHE="5000000") == "5000000"


def test_threads_never_share_the_memory_of_a_result() -> None:
    wrong = []

    def work(label: int) -> None:
        for _ in range(100):
            result = one_hot(label)
            if not torch.equal(result[:, label], torch.ones(1024)) or result.sum() != 1024:
                wrong.append(label)

    threads = [threading.Thread(target=work, args=(label,)) for label in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_results_may_outlive_the_interpreter() -> None:
    code = MAKE + "import atexit; torch.kept = make(); sys.kept = make(); r = make(); del r; print('done')\n"
    code += "atexit.register(lambda: make().sum())"
    assert run_python(code) == "done"


class TestWhatPyTorchDoesWithSuchStorages:
    """The storage of a tensor whose memory belongs to somebody else cannot be resized."""

    def test_resizing_raises(self) -> None:
        with pytest.raises(RuntimeError, match="not resizable"):
            one_hot().resize_(2048, 1024)
        with pytest.raises(RuntimeError, match="not resizable"):
            one_hot().untyped_storage().resize_(0)
        with pytest.raises(RuntimeError, match="not resizable"), pytest.warns(UserWarning, match="resized"):
            torch.add(torch.ones(2048, 1024), 1, out=one_hot())

    def test_a_smaller_size_is_possible(self) -> None:
        assert one_hot(1).resize_(2, 2).tolist() == [[0, 1], [0, 0]]

    def test_set_replaces_the_storage(self) -> None:
        result = one_hot()
        result.set_(torch.ones(3))
        assert result.tolist() == [1, 1, 1]

    def test_copies_are_ordinary_tensors(self) -> None:
        result = one_hot(7)
        for other in (copy.deepcopy(result), pickle.loads(pickle.dumps(result)), result.clone()):
            assert torch.equal(other, result)
            other.resize_(2048, 1024)

    def test_it_can_be_shared_with_other_processes(self) -> None:
        result = one_hot(7).share_memory_()
        assert result.is_shared()
        assert result.sum() == 1024

    def test_gradients_and_parameters(self) -> None:
        values = torch.randn(1024, 1024, requires_grad=True)
        columns = torchext.unfold(values[None, None], 4, stride=4)
        parameter, before = torch.nn.Parameter(columns.detach()), columns.detach().clone()
        (columns * parameter).sum().backward()
        assert values.grad is not None
        assert parameter.grad is not None
        torch.optim.SGD([parameter], 0.1).step()
        assert torch.equal(parameter.grad, before)
        assert torch.allclose(columns, 0.9 * before)  # it shares the memory of the parameter
