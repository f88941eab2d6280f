"""A reporter that keeps what a run says and stops it at a step."""

from maskbench.runs.reporter import Reporter
from maskbench.runtime.interrupt import Interrupted


class StoppingReporter(Reporter):
    """Stops a run once `step` is made, as a crash would, and keeps what is said."""

    def __init__(self, step: int | None = None) -> None:
        self.stop_at, self.said = step, list[str]()

    def note(self, text: str) -> None:
        self.said.append(text)

    def step(self, state, loss) -> None:  # type: ignore[no-untyped-def]
        if state.step == self.stop_at:
            raise Interrupted("crash", 9)
