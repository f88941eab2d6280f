"""Where a step's time goes."""

import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Stopwatch:
    """Wall time and time by phase over a number of steps.

    On a GPU phases are bracketed by events that are read later, so that measuring never makes a step wait; the total
    runs from and to an idle device.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.steps = 0
        self.total_s = 0.0
        self.phases_s: dict[str, float] = defaultdict(float)
        self._events: list[tuple[str, torch.cuda.Event, torch.cuda.Event]] = []
        self._before: dict[str, Any] | None = None
        self._since: float | None = None

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """The time of the enclosed block goes to `name`."""
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
        """Let the total run."""
        self._synchronise()
        self._since = time.perf_counter()

    def pause(self) -> None:
        """Stop the total, e.g. for an evaluation."""
        assert self._since is not None, "pause follows resume"
        self._synchronise()
        self.total_s += time.perf_counter() - self._since
        self._since = None
        for name, begin, end in self._events:
            self.phases_s[name] += begin.elapsed_time(end) / 1000
        self._events.clear()

    def restart(self) -> None:
        """Forget what was measured since the start or `load_state_dict`, while running: it was warm-up."""
        self.pause()
        self._return()
        self.resume()

    def state_dict(self) -> dict[str, Any]:
        """What was measured so far; the watch is paused."""
        assert self._since is None, "paused"
        return {"steps": self.steps, "total_s": self.total_s, "phases_s": dict(self.phases_s)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from what another watch measured."""
        self._before = state
        self._return()

    def _return(self) -> None:
        before = self._before or {"steps": 0, "total_s": 0.0, "phases_s": {}}
        self.steps, self.total_s = before["steps"], before["total_s"]
        self.phases_s = defaultdict(float, before["phases_s"])

    def _synchronise(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
