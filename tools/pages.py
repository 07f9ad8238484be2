"""Check built pages: ``python tools/pages.py build/docs``. The exit status is 1 if a page has a fault.

Faults are an object of the API without its signature, an example that is not highlighted as code, markup that is shown
as text, a line of code that is cut off on a wide screen, a link to a page or a heading that does not exist, a table
without a container in which it scrolls, and a font, script, picture or style sheet that is not part of the site.
"""

from __future__ import annotations

import re
import sys
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urlsplit

ROOT = Path(__file__).resolve().parent.parent
# Elements that have no end tag.
VOID = {"area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "track", "wbr"}
# The container that the theme gives every table.
SCROLLS = "pst-scrollable-table-container"
# The characters for which a page has space at 1440 pixels, in the style of docs/_static/torchext.css.
LINE = 108


class Page(HTMLParser):
    """The faults of a page that can be found without the other pages, its names and its links."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.faults: list[str] = []
        self.names: set[str] = set()
        self.links: list[str] = []
        self.signatures: set[str] = set()
        self._open: list[tuple[str, set[str], str]] = []
        self._code = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Collect names and links, and check what the page loads and where its tables are."""
        values = {name: value or "" for name, value in attrs}
        classes = set(values.get("class", "").split())
        self.names |= {values[name] for name in ("id", "name") if name in values}
        if tag == "a" and "href" in values:
            self.links.append(values["href"])
        loaded = [values.get("src", "")] + ([values.get("href", "")] if tag == "link" else [])
        self.faults += [f"loads {url}" for url in loaded if urlsplit(url).netloc]
        self.links += [url for url in loaded if url]
        if tag == "table" and not any(SCROLLS in one for _, one, _ in self._open):
            self.faults.append("a table has no container in which it scrolls")
        if "sig-paren" in classes:
            self.signatures |= {name for kind, _, name in self._open if kind == "dt"}
        if tag not in VOID:
            self._open.append((tag, classes, values.get("id", "")))

    def handle_endtag(self, tag: str) -> None:
        """Close the element and those in it that have no end tag."""
        for index in reversed(range(len(self._open))):
            if self._open[index][0] == tag:
                del self._open[index:]
                break
        if tag == "pre":
            long = [line for line in self._code.splitlines() if len(line) > LINE]
            self.faults += [f"a line of code has more than {LINE} characters: {line.strip()}" for line in long]
            self._code = ""

    def handle_data(self, data: str) -> None:
        """Find examples that are not highlighted, and markup in the text."""
        tags = {tag for tag, _, _ in self._open}
        if tags & {"script", "style", "title"}:
            return
        if "pre" in tags:
            self._code += data
        if ">>>" in data and "gp" not in self._open[-1][1]:
            self.faults.append(f"an example is not highlighted as code: {data.strip().splitlines()[0]}")
        elif "`" in data and not tags & {"code", "pre"}:
            self.faults.append(f"markup is shown as text: {data.strip()}")


def check(site: Path, names: set[str]) -> list[str]:
    """The faults of all pages, and those of `names`, the objects of the API."""
    # The theme has a template among its files.
    paths = [path.resolve() for path in sorted(site.rglob("*.html")) if "_static" not in path.relative_to(site).parts]
    pages = {path: Page(path.read_text(encoding="utf-8")) for path in paths}
    faults = [f"{path.relative_to(site.resolve())}: {fault}" for path, page in pages.items() for fault in page.faults]
    for path, page in pages.items():
        for link in dict.fromkeys(page.links):
            parts = urlsplit(link)
            if parts.scheme or parts.netloc:
                continue
            target = (path.parent / unquote(parts.path)).resolve() if parts.path else path
            found = target.exists() and (
                not parts.fragment or target not in pages or unquote(parts.fragment) in pages[target].names
            )
            if not found:
                faults.append(f"{path.relative_to(site.resolve())}: a link goes nowhere: {link}")
    shown = {name for page in pages.values() for name in page.signatures}
    faults += [f"{name} is shown without its signature" for name in sorted(names - shown)]
    for sheet in site.rglob("*.css"):
        text = sheet.read_text(encoding="utf-8")
        loaded = re.findall(r"""(?:url\(|@import)\s*["']?((?:https?:)?//[^"')]+)""", text)
        faults += [f"{sheet.relative_to(site)}: loads {url}" for url in loaded]
    return faults


def public_names() -> set[str]:
    """The objects that the API has to show."""
    sys.path.insert(0, str(ROOT))
    import torchext

    modules = {"metrics", "nn", "reference"}
    names = {f"torchext.{name}" for name in torchext.__all__ if name not in modules}
    # References have the signatures of the functions.
    return names | {
        f"torchext.{module}.{name}" for module in modules - {"reference"} for name in getattr(torchext, module).__all__
    }


if __name__ == "__main__":
    wrong = check(Path(sys.argv[1]), public_names())
    print("\n".join(wrong), file=sys.stderr, end="\n" if wrong else "")
    sys.exit(bool(wrong))
