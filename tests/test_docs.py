"""The examples in docs/ give what the pages say."""

from __future__ import annotations

import doctest
import re
from pathlib import Path

import pytest
import torch

import torchext

DOCS = Path(__file__).resolve().parent.parent / "docs"
SECTIONS = [
    pytest.param(section, id=f"{page.stem}-{section.splitlines()[0]}")
    for page in sorted(DOCS.glob("*.md"))
    for section in re.split(r"^## ", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    if ">>>" in section
]


@pytest.mark.parametrize("section", SECTIONS)
def test_examples_give_what_the_page_says(section: str) -> None:
    names = {"torch": torch, "torchext": torchext}
    test = doctest.DocTestParser().get_doctest(section, names, section.splitlines()[0], None, 0)
    assert test.examples
    assert doctest.DocTestRunner().run(test).failed == 0


def test_pictures_of_the_pages_are_there() -> None:
    for page in DOCS.glob("*.md"):
        for picture in re.findall(r"!\[.*?\]\((.*?)\)", page.read_text(encoding="utf-8")):
            assert (DOCS / picture).stat().st_size < 300_000
