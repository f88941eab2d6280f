"""Which strategies an objective can learn from: all the rules in one place."""

from maskbench.core.view import View
from maskbench.objective import Objective
from maskbench.strategy import Strategy


def incompatibility_reason(strategy: Strategy, objective: Objective, view: View | None = None) -> str | None:
    """Why an objective cannot learn from a strategy, and what to choose instead; None if it can.

    Args:
        strategy: The strategy.
        objective: The objective.
        view: An example of the strategy's views, complete. Without one, only the rules that need none are checked.
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
    if ("patch_loss" in strategy.needs or strategy.learns_from_patch_loss) and not objective.predicts_pixels:
        return (
            f"strategy {strategy.name} needs the loss of each patch, which {objective.name} does not measure; choose "
            f"--objective mae"
        )
    return None if view is None else _reason_in_view(strategy, objective, view)


def _reason_in_view(strategy: Strategy, objective: Objective, view: View) -> str | None:
    """As above, for the rules that need a view.

    Objectives that predict pixels follow the view's terms, and those that compare crops take any view as a degraded
    input; so these rules are about noise levels and about objectives that need masked tokens.
    """
    if objective.takes_noise_level and view.condition is None:
        return (
            f"strategy {strategy.name} has no noise level for {objective.name}:conditioned; choose one that has, "
            f"such as noise, or conditioned=false"
        )
    if objective.learns_from != "tokens":
        return None
    if view.hidden is None:
        return (
            f"strategy {strategy.name} degrades pixels and hides no token, and {objective.name} predicts the teacher's "
            f"output for hidden tokens; choose --objective mae, gmml or dino"
        )
    if any(term.warp is not None for term in view.terms):
        return (
            f"strategy {strategy.name} changes where in the image the prediction is compared, and {objective.name} "
            f"predicts no image; choose --objective mae, simmim or gmml"
        )
    return None
