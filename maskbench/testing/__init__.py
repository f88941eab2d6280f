"""Tests for strategies, objectives and probes, anybody's plugins included; `maskbench check` runs them, too."""

from maskbench.testing.conformance import Finding, Report, check_objective, check_probe, check_strategy

__all__ = ["Finding", "Report", "check_objective", "check_probe", "check_strategy"]
