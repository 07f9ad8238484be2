"""The README's table out of the committed results.

python -m benchmarks.harness.readme
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from .report import rows_from_json
from .runner import Row

ROOT = Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon.json"
BEGIN, END = "<!-- results -->\n", "\n<!-- end -->"
THREADS = (1, 2)


class Highlight(NamedTuple):
    """A row of the table: the workload, under which peer's name what people write now, and what stands beside it."""

    shown: str
    instead_of: str
    workload: str
    peer: str
    siblings: Sequence[str] = ()
    """Workloads of other contenders for the same."""


CHAIN = "mean, multiply, sum, ReLU, divide, interpolate"
HIGHLIGHTS = [
    Highlight("`one_hot` 2048×32000", "`zeros.scatter_`", "one_hot: 2048×32000", "zeros.scatter_"),
    Highlight(
        "`one_hot` masks 8×21×512², uint8", "`F.one_hot(…).float()`", "one_hot: masks 8×21×512², uint8", "F.one_hot"
    ),
    Highlight("`one_hot` 4096×1000", "`F.one_hot(…).float()`", "one_hot: 4096×1000", "F.one_hot"),
    Highlight(
        "`multi_hot` top 8 of 128, 8192 tokens",
        "`zeros.scatter_`",
        "multi_hot: top 8 of 128 experts, 8192 tokens",
        "zeros.scatter_",
    ),
    Highlight("`mixup_one_hot` 4096×1000", "timm's `mixup_target`", "mixup_one_hot: 4096×1000", "timm"),
    Highlight("`class_counts` 4M → 21", "`bincount`", "class_counts: masks 4M → 21, int64", "bincount"),
    Highlight(
        "`class_sums` 65536×128 → 1000", "`zeros.index_add_`", "class_sums: 65536×128 → 1000", "zeros.index_add_"
    ),
    Highlight("`confusion_matrix` 4M × 21", "`bincount` of the pairs", "confusion_matrix: 4M × 21, int64", "bincount"),
    Highlight(
        "`class_overlap` 8×21×256², uint8",
        "one-hot, product, sums",
        "overlap: class_overlap 8×21×256², uint8",
        "labels == arange",
    ),
    Highlight(
        "`nn.DiceLoss` 2×14×96³, with backward",
        "softmax, one-hot, product, sums",
        "overlap: DiceLoss 2×14×96³, with backward",
        "labels == arange",
        ["overlap: DiceLoss 2×14×96³, compiled, with backward"],
    ),
    Highlight("`unfold` 32×64×56², k3 p1", "`F.unfold`", "unfold: 32×64×56², k3 p1", "F.unfold"),
    Highlight("`unfold` 16×3×512², k8 s4", "`F.unfold`", "unfold: 16×3×512², k8 s4", "F.unfold"),
    Highlight("`unfold` 4×96×64², k8 s8", "`F.unfold`", "unfold: 4×96×64², k8 s8", "F.unfold"),
    Highlight("`unfold` 1×3×224², k4 s4", "`F.unfold`", "unfold: 1×3×224², k4 s4", "F.unfold"),
    Highlight(
        "`unfold` 8×64×56², k3 p1, reflected",
        "`F.pad` and `F.unfold`",
        "unfold: 8×64×56², k3 p1 reflect",
        "F.pad + F.unfold",
    ),
    Highlight("`fold` 32×64×56², k3 p1", "`F.fold`", "fold: 32×64×56², k3 p1", "F.fold"),
    Highlight("`fold` 16×3×512², k8 s4", "`F.fold`", "fold: 16×3×512², k8 s4", "F.fold"),
    Highlight(
        "`patchify` 32×224²×3 uint8, p16",
        "to float, normalise, view and permute",
        "patchify: 32×224²×3 uint8 NHWC, p16",
        "view + permute",
        ["patchify: 32×224²×3 uint8 NHWC, p16, beside the compiled chain"],
    ),
    Highlight(
        "`extract_windows` 1×3×4096², 512 every 448",
        "a loop of slices",
        "tiles: extract, 1×3×4096², k512 s448",
        "loop of slices",
    ),
    Highlight("`extract_windows` 8×96×56², 7 every 7", "einops", "tiles: extract, 8×96×56², k7 s7", "einops"),
    Highlight(
        "`merge_windows` 1×3×4096², 512 every 448, hann",
        "a loop of slices",
        "tiles: merge, 1×3×4096², k512 s448, hann",
        "loop of slices",
    ),
    Highlight(
        "`scatter_windows` 10000 of 64² into 4096²",
        "a loop of slices",
        "tiles: scatter 10000 windows 64² into 4096²",
        "loop of slices",
    ),
    Highlight("`cam_pool` 256×2048×7²", CHAIN, "cam_pool: 256×2048×7²", "chain"),
    Highlight("`cam_pool` 8×512×56²", CHAIN, "cam_pool: 8×512×56²", "chain"),
    Highlight("`cam_pool` 32×2048×7² to 224²", CHAIN, "cam_pool: 32×2048×7² to 224²", "chain"),
]
HEAD = [
    "| operation | instead of | faster than it, 1 and 2 threads | than the fastest of all | ÷ floor |",
    "|---|---|--:|--:|--:|",
]


def table(rows: Iterable[Row]) -> str:
    found = {(row.title, row.threads): row for row in rows if not row.huge_pages}

    def at_each(value: Callable[[int], str]) -> str:
        return " / ".join(map(value, THREADS))

    def line(one: Highlight) -> str:
        def faster(threads: int) -> str:
            row = found[one.workload, threads]
            assert row.ours is not None
            return f"{row.peers[one.peer].median / row.ours.median:.1f}×"

        def than_all(threads: int) -> str:
            shares = [found[title, threads].to_peer for title in (one.workload, *one.siblings)]
            return f"{1 / max(share for share in shares if share is not None):.1f}×"

        def to_floor(threads: int) -> str:
            return f"{found[one.workload, threads].to_floor:.2f}"

        cells = [one.shown, one.instead_of, at_each(faster), at_each(than_all), at_each(to_floor)]
        return f"| {' | '.join(cells)} |"

    return "\n".join([*HEAD, *map(line, HIGHLIGHTS)])


def between_marks(text: str) -> str:
    return text.partition(BEGIN)[2].partition(END)[0]


def main() -> None:
    text = README.read_text(encoding="utf-8")
    README.write_text(text.replace(between_marks(text), table(rows_from_json(RESULTS))), encoding="utf-8")


if __name__ == "__main__":
    main()
