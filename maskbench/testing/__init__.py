"""Tests for strategies, anybody's plugin included: `check_strategy`, which `maskbench check` runs, too."""

from maskbench.testing.conformance import Finding, Report, check_strategy

__all__ = ["Finding", "Report", "check_strategy"]
