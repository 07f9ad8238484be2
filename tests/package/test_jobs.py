"""Tests of the jobs and of the rows under other allocators."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest
import torch

from benchmarks.allocators import ALLOCATORS
from benchmarks.harness import readme, runner
from benchmarks.harness.timing import Effort, Times
from benchmarks.jobs.workloads import jobs
from tests.package.test_package import run_python

JOBS = jobs(quick=True)
ONCE = Effort(budget=0, min_samples=1, max_samples=1, sample_seconds=0)


@pytest.fixture
def one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)


@pytest.mark.usefixtures("one_thread")
@pytest.mark.parametrize("job", [job for job in JOBS if not job.compile_ours], ids=lambda job: job.name[:40])
def test_every_way_to_write_a_job_has_the_same_result(job: runner.Workload) -> None:
    if "photos explained" in job.name:
        pytest.importorskip("efficientnet_lite_pytorch", reason="in requirements/demo.txt")
        pytest.importorskip("skimage", reason="in requirements/demo.txt")
    (row,) = runner.run([job], device="cpu", threads=[1], effort=ONCE, compile_peers=False)
    assert row.error is None
    assert row.broken_peers == {}
    assert row.peers


def test_quick_and_full_jobs_are_the_same_jobs() -> None:
    full = jobs(quick=False)
    assert len({job.name for job in full}) == len(full) == len(JOBS)
    assert [(*job.peers, *job.compiled) for job in full] == [(*job.peers, *job.compiled) for job in JOBS]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_the_memory_of_a_call_is_that_of_its_largest_intermediate_results() -> None:
    code = (
        "import torch\nfrom benchmarks.harness.runner import Workload\n"
        "from benchmarks.jobs.__main__ import memory_here\n"
        "more = lambda _: (torch.ones(64 << 18) + 1)[:1].clone()\n"
        "inputs = lambda _: (torch.ones(100 << 18),)\n"
        "job = Workload(name='', family='job', setup=inputs, ours=lambda x: x[:1], peers={'more': more})\n"
        "print(*(memory_here(job, name)['peak'] for name in ('torchext', 'more')))"
    )
    ours, other = map(float, run_python(code).split())  # memory that other tests have freed would be used first
    assert ours < 32
    assert 120 < other < 160


def test_tables_have_the_lost_rows_first_and_mark_them() -> None:
    def row(name: str, ours: float, **peers: float) -> dict[str, object]:
        times = {peer: Times(seconds, seconds, 3) for peer, seconds in peers.items()}
        one = runner.Row("job", name, "cpu", 1, False, ours=Times(ours, ours, 3), peers=times)
        return one.as_dict()

    used = {"torchext": {"peak": 10.0, "kept": 4.0}, "loop": {"peak": 99.0, "kept": 0.0}}
    won, lost = row("won", 1.0, loop=3.0), row("lost", 2.0, loop=1.0)
    document = {"rows": [{**won, "memory": used}, {**lost, "memory": {}}]}
    assert list(readme.job_cells(document, most=9)) == [
        ["lost, against loop", "**0.50× (slower)**", "2.00 s / 1.00 s", "–"],
        ["won, against loop", "3.00×", "1.00 s / 3.00 s", "10 (4 kept) / 99"],
    ]
    assert list(
        readme.allocator_cells({"rows": {"glibc": [won, lost], "jemalloc": [won, won | {"name": "lost"}]}})
    ) == [
        ["`job: lost`", "**0.50×**", "3.00×"],
        ["`job: won`", "3.00×", "3.00×"],
    ]


@pytest.mark.parametrize("name", ["jemalloc", "tcmalloc"])
def test_allocators_are_preloaded(name: str) -> None:
    allocator = ALLOCATORS[name]
    try:
        environment = allocator.environment()
    except SystemExit:
        pytest.skip(f"{allocator.package} is not installed")
    code = "import ctypes, sys; sys.exit(not hasattr(ctypes.CDLL(None), sys.argv[1]))"
    symbol = {"jemalloc": "mallctl", "tcmalloc": "tc_malloc"}[name]
    for variables, loaded in ((environment, 0), ({}, 1)):
        done = subprocess.run([sys.executable, "-c", code, symbol], env={**os.environ, **variables}, check=False)
        assert done.returncode == loaded


def test_a_missing_allocator_names_its_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.allocators.find_library", lambda _: None)
    with pytest.raises(SystemExit, match="apt-get install libjemalloc2"):
        ALLOCATORS["jemalloc"].environment()
