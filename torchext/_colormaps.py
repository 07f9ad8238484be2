"""Colour tables: 256 rows of red, green and blue, equal to OpenCV's to the byte."""

from __future__ import annotations


def _jet() -> list[list[int]]:
    """From dark blue over cyan, yellow and red to dark red."""

    def clipped(value: int) -> int:
        return min(max(value, 0), 255)

    rows = [
        [
            clipped(min(4 * i - 382, 1148 - 4 * i)),
            clipped(min(4 * i - 128, 892 - 4 * i)),
            clipped(min(4 * i + 128, 638 - 4 * i)),
        ]
        for i in range(256)
    ]
    rows[159][2] = 0  # the one entry of OpenCV's table that is off its own line
    return rows


# Plain numbers: a tensor kept here would outlive the trace or the device context that it was made under.
JET = _jet()
