"""The time of training steps, in total and by phase."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Wall time and time by phase over a number of steps.

    On a GPU each phase lies between two events that are read later, so that measuring never makes a step wait. The
    total starts and stops when the device is idle.

    Attributes:
        device: Where the steps run.
        steps: Number of steps; the caller counts.
        total_s: Seconds between `resume` and `pause`.
        phases_s: Seconds by name of phase.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps = 0
        self.total_s = 0.0
        self.phases_s: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._loaded: dict[str, Any] | None = None
        self._resumed_at: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the time of the enclosed block as phase `name`."""
        if self.device.type != "cuda":
            start = time.perf_counter()
            yield
            self.phases_s[name] += time.perf_counter() - start
            return
        begin, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        begin.record()
        yield
        end.record()
        self._events.append((name, begin, end))

    def resume(self) -> None:
        """Start the total, or start it again."""
        self._synchronise()
        self._resumed_at = time.perf_counter()

    def pause(self) -> None:
        """Stop the total, for example for an evaluation."""
        assert self._resumed_at is not None, "pause follows resume"
        self._synchronise()
        self.total_s += time.perf_counter() - self._resumed_at
        self._resumed_at = None
        for name, begin, end in self._events:
            self.phases_s[name] += begin.elapsed_time(end) / 1000
        self._events.clear()

    def restart(self) -> None:
        """Discard, as warm-up, what was measured since the start or `load_state_dict`, and go on measuring."""
        self.pause()
        self._reset()
        self.resume()

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far, for a checkpoint; only while paused."""
        assert self._resumed_at is None, "paused"
        return {"steps": self.steps, "total_s": self.total_s, "phases_s": dict(self.phases_s)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from the `state_dict` of another stopwatch."""
        self._loaded = state
        self._reset()

    def _reset(self) -> None:
        start = self._loaded or {"steps": 0, "total_s": 0.0, "phases_s": {}}
        self.steps, self.total_s = start["steps"], start["total_s"]
        self.phases_s = defaultdict(float, start["phases_s"])

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
