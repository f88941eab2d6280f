"""Short reports: a missed bound is three lines, and no failure prints the debug log of torch."""

from collections.abc import Iterator

import pytest

from benchmarks.bounds import BoundMissedError


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item: pytest.Item, call: pytest.CallInfo[None]) -> Iterator[None]:
    """Drops captured logs from every report; of a missed bound only the message remains."""
    outcome = yield
    report = outcome.get_result()  # type: ignore[attr-defined]
    report.sections = [(title, text) for title, text in report.sections if "log" not in title]
    if call.excinfo is not None and call.excinfo.errisinstance(BoundMissedError):
        report.longrepr, report.sections = str(call.excinfo.value), []
