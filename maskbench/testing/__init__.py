"""Does a strategy keep the contract? For the tests of anybody's plugin, and `maskbench check`."""

from maskbench.testing.conformance import Finding, Report, check_strategy

__all__ = ["Finding", "Report", "check_strategy"]
