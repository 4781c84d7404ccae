"""The peak of memory while something runs, for the measurements beside this file."""

from __future__ import annotations

import resource
import threading
import time
from pathlib import Path

import torch


class Peak(threading.Thread):
    """The most memory used while it runs, bytes above what was used at its start."""

    def __init__(self, device: str = "cpu") -> None:
        super().__init__(daemon=True)
        self._device, self._going = device, True
        self._before = self._most = self._used()

    def _used(self) -> int:
        if self._device != "cpu":
            return int(torch.cuda.max_memory_allocated())
        pages = int(Path("/proc/self/statm").read_text().split()[1])
        return pages * resource.getpagesize()

    def run(self) -> None:
        """Look every 5 ms."""
        while self._going:
            self._most = max(self._most, self._used())
            time.sleep(0.005)

    def bytes(self) -> int:
        """Stop looking; the peak."""
        self._going = False
        self.join()
        return max(self._most, self._used()) - self._before
