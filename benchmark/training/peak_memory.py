"""The peak memory of a block of code."""

import threading

import psutil
import torch

from kdbench.benchmark.training.engine import Engine


class PeakMemory:
    """The peak memory while a block runs: the GPU's own count, or samples of the process on a CPU."""

    def __init__(self, engine: Engine) -> None:
        self.gpu = engine.device if engine.device.type == "cuda" else None  # not necessarily the process's first GPU
        self.process = psutil.Process()
        self.peak = 0
        self._over = threading.Event()

    def __enter__(self) -> "PeakMemory":
        if self.gpu:
            torch.cuda.reset_peak_memory_stats(self.gpu)
        else:
            threading.Thread(target=self._sample, daemon=True).start()
        return self

    def __exit__(self, *error: object) -> None:
        self._over.set()
        if self.gpu:
            self.peak = torch.cuda.max_memory_allocated(self.gpu)
        else:
            self._look()

    def _sample(self) -> None:
        while not self._over.wait(0.5):
            self._look()

    def _look(self) -> None:
        self.peak = max(self.peak, self.process.memory_info().rss)
