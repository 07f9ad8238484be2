"""The tests: a folder for each family, in it one for each operation, and what drives them all in `conformance`."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
