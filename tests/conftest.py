from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

import torchext


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "cuda: runs on a CUDA device; skipped without one")
    config.addinivalue_line("markers", "xdist_group(name): all tests of a group run in one process")
    # Expected results are computed by PyTorch in full float32, not in TF32 with its 10 bits.
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
    """End the process after a fault of a kernel, since all later tests would fail: pytest-xdist starts another one."""
    if "PYTEST_XDIST_WORKER" in os.environ and torch.cuda.is_initialized():
        try:
            torch.cuda.synchronize()
        except RuntimeError:
            os._exit(1)
