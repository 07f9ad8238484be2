"""Compute a short-time Fourier transform of a signal, and restore the signal by overlap-add.

`extract_windows` extracts the frames and pads the signal by reflection; `merge_windows` adds the frames up.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

import torchext

RATE, FRAME, HOP = 16000, 512, 128
FRAMES = {"stride": (HOP,), "padding": FRAME // 2}


def chirp(seconds: float = 2.0) -> Tensor:
    """A tone with a frequency from 200 Hz to 4 kHz, and some noise: ``(samples,)``."""
    time = torch.arange(int(seconds * RATE)) / RATE
    phase = 2 * math.pi * (200 * time + (4000 - 200) / (2 * seconds) * time**2)
    return phase.sin() + 0.05 * torch.randn(time.shape, generator=torch.Generator().manual_seed(0))


def stft(signal: Tensor, window: Tensor) -> Tensor:
    """The spectrum ``(frequencies, frames)``, like `torch.stft`."""
    frames = torchext.extract_windows(signal[None], (FRAME,), padding_mode="reflect", **FRAMES)
    return torch.fft.rfft(frames[:, 0] * window).T


def istft(spectrum: Tensor, window: Tensor, length: int) -> Tensor:
    """The sum of the weighted frames, divided by the sum of the squared windows (Griffin and Lim, 1984)."""
    frames = torch.fft.irfft(spectrum.T, FRAME)[:, None]
    windows = window.expand_as(frames)

    def add_up(frames: Tensor) -> Tensor:
        return torchext.merge_windows(frames, (length,), weight=window, normalize=False, **FRAMES)[0]

    return add_up(frames) / add_up(windows)


def main() -> dict[str, float]:
    signal, window = chirp(), torch.hann_window(FRAME)
    spectrum = stft(signal, window)
    back = istft(spectrum, window, len(signal))
    expected = torch.stft(signal, FRAME, HOP, window=window, return_complex=True)
    differences = {
        "spectrum to torch.stft": float((spectrum - expected).abs().max() / expected.abs().max()),
        "signal to torch.istft": float((back - torch.istft(expected, FRAME, HOP, window=window)).abs().max()),
        "signal to itself": float((back - signal).abs().max()),
    }
    print(f"{len(signal)} samples to {spectrum.shape[1]} frames of {FRAME}, every {HOP}, and back")
    for name, difference in differences.items():
        print(f"{name:23} {difference:.1e}")
    return differences


if __name__ == "__main__":
    main()
