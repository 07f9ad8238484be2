"""Labels that another thread changes while a kernel reads them. No kernel may use a label that it has not checked."""

from __future__ import annotations

import pytest

from tests.races import survives
from torchext._native import load

CALLS = """
    torchext.one_hot(changing, 100, dtype=torch.uint8, invalid='zero')
    torchext.multi_hot(changing.view(-1, 10), 100, invalid='zero')
    torchext.class_sums(values, changing, 100, invalid='zero')
    torchext.class_counts(changing, 100, invalid='zero')
    torchext.confusion_matrix(changing, changing, 100, invalid='zero')
    torchext.class_max(values, changing, 100, invalid='zero')
    torchext.class_overlap(scores, changing.view(1, -1), invalid='zero')
"""


@pytest.mark.skipif(not load.is_loaded("_C"), reason="references read labels more than once, and raise")
@pytest.mark.parametrize(("dtype", "bad"), [("int64", 2**40), ("int32", 2**30), ("int16", 2**14)])
def test_labels_may_change_during_the_call(dtype: str, bad: int) -> None:
    prepare = f"""
labels = torch.randint(0, 100, (100_000,)).to(torch.{dtype})
others = labels, torch.full_like(labels, {bad}), torch.full_like(labels, -1)
changing, values, scores = labels.clone(), torch.randn(100_000), torch.randn(1, 100, 100_000)
"""
    assert survives(prepare, CALLS.strip())
