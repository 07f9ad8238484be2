"""Tests of tools/pages.py, which checks the built documentation."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from tests import ROOT

CHECK = runpy.run_path(str(ROOT / "tools" / "pages.py"))["check"]
SOUND = """<title>a `b`</title><dl><dt class="sig" id="torchext.CAM">CAM<span class="sig-paren">(</span></dt></dl>
<div class="pst-scrollable-table-container"><table><tr><td><code>`</code></td></tr></table></div>
<pre><span></span><span class="gp">&gt;&gt;&gt; </span>1</pre>
<a href="other.html#there">there</a><a href="https://example.org">elsewhere</a><img src="picture.svg">"""
LONG = "1" * 105
OTHER = '<h2 id="there">Other</h2>'


def faults(folder: Path, page: str, sheet: str = "") -> list[str]:
    for name, text in {"page.html": page, "other.html": OTHER, "picture.svg": "", "sheet.css": sheet}.items():
        (folder / name).write_text(text, encoding="utf-8")
    return CHECK(folder, {"torchext.CAM"})


def test_a_sound_page_has_no_fault(tmp_path: Path) -> None:
    assert faults(tmp_path, SOUND, "a { background: url('picture.svg') }") == []


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ('<span class="sig-paren">(</span>', "", "torchext.CAM is shown without its signature"),
        ('<span class="gp">&gt;&gt;&gt; </span>', "&gt;&gt;&gt; ", "an example is not highlighted as code: >>> 1"),
        ("there</a>", "``there``</a>", "markup is shown as text: ``there``"),
        ("other.html#there", "other.html#here", "a link goes nowhere: other.html#here"),
        ("other.html#there", "missing.html", "a link goes nowhere: missing.html"),
        ("picture.svg", "picture.png", "a link goes nowhere: picture.png"),
        ("picture.svg", "https://example.org/picture.svg", "loads https://example.org/picture.svg"),
        ("</span>1</pre>", f"</span>{LONG}</pre>", f"a line of code has more than 108 characters: >>> {LONG}"),
        (' class="pst-scrollable-table-container"', "", "a table has no container in which it scrolls"),
        ("<title>", '<script src="//example.org/a.js"></script><title>', "loads //example.org/a.js"),
        (
            "<title>",
            '<link rel="stylesheet" href="https://example.org/a.css"><title>',
            "loads https://example.org/a.css",
        ),
    ],
)
def test_each_fault_is_found(old: str, new: str, fault: str, tmp_path: Path) -> None:
    page = SOUND.replace(old, new)
    assert page != SOUND
    found = faults(tmp_path, page)
    assert [one.partition("page.html: ")[2] or one for one in found] == [fault]


@pytest.mark.parametrize("text", ["@import 'https://example.org/a.css';", "a { src: url(//example.org/font) }"])
def test_a_style_sheet_that_loads_from_elsewhere_is_a_fault(text: str, tmp_path: Path) -> None:
    (found,) = faults(tmp_path, SOUND, text)
    assert found.startswith("sheet.css: loads ")
