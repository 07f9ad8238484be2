"""The kernels allocate nothing that is as large as an input or a result, as docs/memory.md says."""

from __future__ import annotations

import subprocess
import sys

from tests import ROOT
from tests.memory import reads_in_place, reads_proc

CODE = """
import torch, torchext

def megabytes(field):
    (line,) = [line for line in open("/proc/self/status") if line.startswith(field)]
    return int(line.split()[1]) / 1024

def beyond(call, *inputs):
    call(*(x[:2].clone() for x in inputs))  # loads what a first call loads
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # sets the peak to what is in use
    before = megabytes("VmRSS")
    result = call(*inputs)
    return megabytes("VmHWM") - before - result.nbytes / 2**20

def gradient(scores, labels):
    return torch.autograd.grad(torchext.nn.DiceLoss(softmax=True)(scores.requires_grad_(), labels), scores)[0]

torch.set_num_threads(2)
masks = torch.randint(0, 21, (2, 512, 512), dtype=torch.uint8)
photos, windows = torch.rand(2, 3, 1024, 1024), torch.rand(10, 10, 3, 128, 128)
corners = torch.randint(0, 900, (800, 2))
crops = torch.rand(800, 3, 64, 64)
merge = {"weight": "hann", "normalize": True}
calls = {
    "one_hot": (lambda x: torchext.one_hot(x, 21, dim=1), masks),
    "multi_hot": (lambda x: torchext.multi_hot(x, 128), torch.randint(0, 128, (100_000, 8))),
    "mixup_one_hot": (lambda x: torchext.mixup_one_hot(x, 0.3, 1000), torch.randint(0, 1000, (10_000,))),
    "unfold": (lambda x: torchext.unfold(x, 3, padding=1), photos),
    "fold": (lambda x: torchext.fold(x, 512, 3, padding=1), torch.rand(2, 27, 512 * 512)),
    "extract_windows": (lambda x: torchext.extract_windows(x, (128, 128), (96, 96)), photos),
    "merge_windows": (
        lambda x: torchext.merge_windows(x, (x.shape[0] * 96 + 32, x.shape[1] * 96 + 32), (96, 96), **merge), windows
    ),
    "gather_windows": (lambda at: torchext.gather_windows(photos[0], at, (64, 64)), corners),
    "scatter_windows": (lambda x, at: torchext.scatter_windows(x, at, (1024, 1024), weight="hann"), crops, corners),
    "patchify": (lambda x: torchext.patchify(x, 16), photos),
    "unpatchify": (lambda x: torchext.unpatchify(x, 16, 14), torch.rand(64, 196, 768)),
    "DiceLoss": (gradient, torch.rand(2, 21, 512, 512), masks),
}
for name, (call, *inputs) in calls.items():
    if beyond(call, *inputs) > 2:
        print(name, beyond(call, *inputs))
"""


@reads_proc
@reads_in_place
def test_kernels_allocate_their_results_alone() -> None:
    done = subprocess.run([sys.executable, "-c", CODE], cwd=ROOT, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, ""), done.stderr
