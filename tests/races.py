"""Calls whose arguments another thread changes: a mistake of the caller, which must not end the process."""

from __future__ import annotations

import os
import subprocess
import sys

from tests import ROOT

_CODE = """
import threading
import torch, torchext

torch.set_num_threads(2)
{prepare}
done = False

def write():
    while not done:
        for other in others:
            changing.copy_(other)

thread = threading.Thread(target=write, daemon=True)
thread.start()
for _ in range(40):
    {call}
done = True
thread.join()
"""


def survives(prepare: str, call: str) -> bool:
    """Whether a process survives calls while another thread overwrites `changing` with each of `others`.

    `prepare` is code that defines both.
    """
    command = [sys.executable, "-c", _CODE.format(prepare=prepare, call=call)]
    return subprocess.run(command, env={**os.environ, "PYTHONPATH": str(ROOT)}, check=False).returncode == 0
