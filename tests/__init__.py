"""The tests: a folder for each family with a folder for each operation; `conformance` tests all operations."""

from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
