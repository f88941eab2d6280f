"""What a training step refuses of the losses that it gets."""

import pytest
import torch
from torch import Tensor, nn

from maskbench.core.examples import Examples
from maskbench.core.step_output import StepOutput
from maskbench.errors import ContractError
from maskbench.strategy import Context, Strategy, View, dataclass
from maskbench.training.step import Loss


@dataclass(frozen=True, kw_only=True)
class WithLoss(Strategy):
    """Hides nothing; its loss has the shape of `shape`."""

    shape: tuple[int, ...] = ()

    def __call__(self, images: Tensor, context: Context) -> View:
        return View(images)

    def loss(self, view: View, output: StepOutput, context: Context) -> Tensor:
        return torch.ones(self.shape)


def step(objective: tuple[int, ...], strategy: tuple[int, ...]) -> Tensor:
    images = torch.zeros(4, 3, 8, 8)
    head = nn.Module()
    head.forward = lambda examples: StepOutput(torch.ones(objective))  # type: ignore[method-assign]
    examples = Examples((View(images),), (images,), torch.zeros(4))
    context: Context = None  # type: ignore[assignment]
    output: StepOutput = Loss(head, WithLoss(shape=strategy), None)(examples, [context])  # type: ignore[arg-type]
    return output.loss


def test_scalar_losses_add_up() -> None:
    assert step((), ()).item() == 2


@pytest.mark.parametrize(("objective", "strategy"), [((4,), ()), ((), (4, 4)), ((), (1,))])
def test_a_loss_of_another_shape_is_refused_not_averaged(objective: tuple[int, ...], strategy: tuple[int, ...]) -> None:
    with pytest.raises(ContractError, match=r"the loss of .* is \(.*\); return a \(\) tensor"):
        step(objective, strategy)
