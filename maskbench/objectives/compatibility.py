"""Which strategies an objective can learn from: all the rules in one place."""

from maskbench.core.view import View
from maskbench.objective import Objective
from maskbench.strategy import Strategy


def unfit(strategy: Strategy, objective: Objective, view: View | None = None) -> str | None:
    """Why the two make no sense together, and what would; None if they do.

    view: an example of the strategy's, complete; without one, only what is known by name is judged.
    """
    if objective.control:
        if strategy.name == "none":
            return None
        return f"objective {objective.name} is a control: it goes with strategy none, not {strategy.name}"
    if strategy.name == "none" and objective.learns_from != "crops":
        return (
            f"strategy none leaves {objective.name} nothing to recover; choose a strategy that degrades the image, or "
            f"a control: --objective random-init or supervised"
        )
    if ("patch_loss" in strategy.needs or strategy.learns_from_patch_loss) and not objective.paints:
        return (
            f"strategy {strategy.name} needs the loss of each patch, which {objective.name} does not measure; choose "
            f"--objective mae"
        )
    if view is not None and objective.told_level and view.condition is None:
        return (
            f"strategy {strategy.name} has no noise level to tell {objective.name}:conditioned; choose one that has, "
            f"such as noise, or conditioned=false"
        )
    if view is None or objective.learns_from != "tokens":
        return None  # what is painted follows the view's terms; what compares crops takes any as a degraded input
    if view.hidden is None:
        return (
            f"strategy {strategy.name} degrades pixels and hides no token, and {objective.name} predicts the teacher's "
            f"answer for hidden tokens; choose --objective mae, gmml or dino"
        )
    if any(term.warp is not None for term in view.terms):
        return (
            f"strategy {strategy.name} is about where in the picture the prediction is compared, and {objective.name} "
            f"predicts no picture; choose --objective mae, simmim or gmml"
        )
    return None
