"""The command line: ``python -m torchext``."""

import sys

from torchext._cli import main

sys.exit(main())
