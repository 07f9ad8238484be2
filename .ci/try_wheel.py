"""One call of every family, by the compiled kernels of an installed package."""

import warnings
from pathlib import Path

warnings.filterwarnings("ignore", message="Failed to initialize NumPy")

import torch  # noqa: E402
import torch.nn.functional as F  # noqa: E402

import torchext  # noqa: E402

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
message = ""
try:
    torchext.one_hot(labels, 2)
except IndexError as error:
    message = str(error)
assert message.startswith("label 2 at position (0,)"), message

image = torch.randn(2, 3, 10, 12)
columns = torchext.unfold(image, 3, stride=2, padding=1)
assert torch.equal(columns, F.unfold(image, 3, stride=2, padding=1))
folded = F.fold(columns, (10, 12), 3, stride=2, padding=1)
torch.testing.assert_close(torchext.fold(columns, (10, 12), 3, stride=2, padding=1), folded)

activations, gradients = torch.randn(2, 2, 8, 7, 7).unbind()
maps = (gradients.mean((2, 3), keepdim=True) * activations).sum(1).relu()
maps = F.interpolate((maps / maps.amax((1, 2), keepdim=True))[:, None], 28, mode="bilinear")[:, 0]
torch.testing.assert_close(torchext.cam_pool(activations, gradients, size=28), maps)
print("the installed package computes what PyTorch computes")
