"""The conformance suite on sound plugins, and on those whose mistakes are independent: a line each."""

from torch import Tensor

from maskbench.strategy import REGISTRY, Context, Ratio, Strategy, View, dataclass, hide
from maskbench.testing.conformance import check_strategy


@dataclass(frozen=True, kw_only=True)
class Plugin(Strategy):
    """Random masking, correct."""

    ratio: Ratio = 0.75

    def __call__(self, images: Tensor, context: Context) -> View:
        count = context.grid.count(self.ratio)
        return View(images, hide(context.uniform(context.grid.size), count), length=context.grid.size - count)


def failures(strategy: Strategy) -> set[str]:
    return {finding.check for finding in check_strategy(strategy).findings if finding.failure}


def test_a_sound_plugin_conforms() -> None:
    report = check_strategy(Plugin())
    assert report.passed, f"\n{report}"
    assert str(report).endswith("conforms")


def test_parameters_without_a_range_fail() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Unbounded(Plugin):
        """Has a parameter that takes any number."""

        strength: float = 1.0

    assert failures(Unbounded()) == {"parameters"}


def test_a_missing_docstring_and_an_unknown_signal_fail() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Silent(Plugin):
        needs = frozenset({"depth"})

    Silent.__doc__ = None
    assert failures(Silent()) == {"documentation"}


def test_names_are_accepted() -> None:
    assert check_strategy("random").strategy == REGISTRY.create("random")
