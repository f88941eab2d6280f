"""pytest-benchmark suites."""
