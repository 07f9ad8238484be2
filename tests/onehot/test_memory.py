"""Encodings and overlaps read labels in place: they make no copy of the labels and no one-hot."""

from __future__ import annotations

import pytest

from tests.memory import peak_megabytes, reads_in_place, reads_proc

# Limits in MB. A call also loads pages of code when it runs for the first time. The labels as int64 would need 256 MB
# or more, and a one-hot of the scores as well.
CALLS = {
    "one_hot": ("labels = full((1 << 26,), 0, dtype=uint8)", "torchext.one_hot({}, 1, dtype=uint8)", 64),
    "one_hot, planes": (
        "labels = full((64, 1 << 20), 0, dtype=uint8)", "torchext.one_hot({}, 1, dim=1, dtype=uint8)", 64
    ),
    "multi_hot": ("labels = full((1 << 21, 16), 0, dtype=int16)", "torchext.multi_hot({}, 8, dtype=uint8)", 16),
    "multi_hot, planes": (
        "labels = full((1 << 21, 16), 0, dtype=int16)", "torchext.multi_hot({}, 8, dim=0, dtype=uint8)", 16
    ),
    "mixup_one_hot": (
        "labels = full((1 << 26,), 0, dtype=uint8)", "torchext.mixup_one_hot({}, 0.3, 1, dtype=float16)", 128
    ),
    "class_overlap": (
        "labels = full((1 << 25,), 0, dtype=uint8); scores = full((2, 1 << 25), 0.0)",
        "torchext.class_overlap(scores[:, : len({0})], {0}, dim=0)", 0
    ),
}  # fmt: skip


@reads_proc
@reads_in_place
@pytest.mark.parametrize("name", CALLS)
def test_memory_is_only_needed_for_the_result(name: str) -> None:
    inputs, call, megabytes = CALLS[name]
    prepare = f"import torchext\nfrom torch import float16, full, int16, uint8\n{inputs}\n{call.format('labels[:8]')}"
    assert peak_megabytes(prepare, f"out = {call.format('labels')}") < megabytes + 32
