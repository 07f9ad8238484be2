from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import torchext


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: runs on a CUDA device; left out where there is none")
    config.addinivalue_line("markers", "xdist_group(name): one process runs all of them, one after the other")
    # What results are compared with is computed by PyTorch: in full float32, not in TF32 with its 10 bits.
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = False


def pytest_report_header() -> list[str]:
    return str(torchext.doctor()).splitlines()


@pytest.fixture(autouse=True)
def _clean_state() -> Iterator[None]:
    torch.manual_seed(0)
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    torch._dynamo.reset()
    torchext.check_errors()


@pytest.hookimpl(trylast=True)
def pytest_runtest_logfinish() -> None:
    """After a fault of a kernel every later test of the process would fail: pytest-xdist starts another one."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
