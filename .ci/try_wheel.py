"""Calls every family with the compiled kernels of an installed package, and prints facts about the package. `--cuda`
also loads the CUDA library, even without a GPU, which shows that no symbol is missing."""

import ctypes
import json
import platform
import sys
import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import torchext  # noqa: E402
from torchext._core.library import operations  # noqa: E402

package = Path(torchext.__file__).parent
assert "site-packages" in package.parts, package
assert (package / "py.typed").exists()
assert any((package / "csrc").rglob("*.cpp")), "the sources for jit_build are missing"

report = torchext.doctor()
print(report)
assert report.libraries[0].problem is None
compiled = {kernel.operation for kernel in report.kernels if (kernel.device, kernel.kernel) == ("cpu", "compiled")}
assert compiled >= {"one_hot", "unfold", "fold", "cam_pool"}, compiled

labels = torch.tensor([2, 0, 1])
assert torch.equal(torchext.one_hot(labels, 3, dtype=torch.int64), F.one_hot(labels, 3))


def message_of(kind, call):
    """The text of the error of this type that the call raises."""
    try:
        call()
    except kind as error:
        return str(error)
    raise AssertionError(f"no {kind.__name__}")


# The error is thrown in C++, and passes through PyTorch to Python.
bad_label = message_of(IndexError, lambda: torchext.one_hot(labels, 2))
assert bad_label.startswith("label 2 at position (0,)"), bad_label
compiled_call = torch.compile(lambda y: torchext.one_hot(y, 2), fullgraph=True, backend="eager")
assert message_of(IndexError, lambda: compiled_call(labels)).startswith("label 2 at position (0,)")

image = torch.randn(2, 3, 10, 12)
columns = torchext.unfold(image, 3, stride=2, padding=1)
assert torch.equal(columns, F.unfold(image, 3, stride=2, padding=1))
folded = F.fold(columns, (10, 12), 3, stride=2, padding=1)
torch.testing.assert_close(torchext.fold(columns, (10, 12), 3, stride=2, padding=1), folded)
image.requires_grad_()
torchext.unfold(image, 3, stride=2, padding=1).backward(columns)
torch.testing.assert_close(image.grad, folded)

activations, gradients = torch.randn(2, 2, 8, 7, 7).unbind()
maps = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
maps = F.interpolate((maps / maps.amax((1, 2), keepdim=True))[:, None], 28, mode="bilinear")[:, 0]
torch.testing.assert_close(torchext.cam_pool(activations, gradients, size=28), maps)
print("the installed package returns the same results as PyTorch")

cuda = next(library for library in report.libraries if library.name == "_C_cuda")
facts = {
    "python": platform.python_version(),
    "torch": torch.__version__,
    "glibc": platform.libc_ver()[1],
    "_C": "loaded, " + report.versions["cpu"].rpartition(" ")[2],
    "error": bad_label,
    "_C_cuda": "loaded" if cuda.problem is None else cuda.problem,
}
if "--cuda" in sys.argv:
    if cuda.problem is not None:
        ctypes.CDLL(str(package / "_C_cuda.so"))  # resolves all symbols, and fails if one is missing
    has_kernel = torch._C._dispatch_has_kernel_for_dispatch_key
    facts["kernels"] = sum(has_kernel(f"torchext::{name}", "CUDA") for name in operations)
print("facts:", json.dumps(facts))
