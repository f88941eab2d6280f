"""What the objective paints: predictions where they are asked for, the view elsewhere, contrast restored."""

import pytest
import torch

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.objectives.pixel_loss import denormalise_patches, normalise_patches
from maskbench.runs.plan import build_state, example_view, load_data, make_plan
from maskbench.runs.reconstruction import reconstruct

SMALL = {
    "data.limit": 100,
    "data.img_size": 16,
    "train.batch_size": 50,
    "model.kwargs": {"embed_dim": 24, "depth": 1, "num_heads": 2},
}


def made(**changes: object) -> tuple:  # type: ignore[type-arg]
    planned, splits = load_data(make_plan(parse_config(merge(load_preset("quick"), {**SMALL, **changes}))))
    state = build_state(planned, splits)
    clean, view = example_view(planned, splits, state)
    return planned, state, clean, view


@pytest.mark.parametrize("how", ["none", "patch", "patch-channel"])
def test_restored_is_the_inverse_of_normalised(how: str) -> None:
    images = 3 + 2 * torch.randn(2, 3, 8, 12, dtype=torch.float64)
    again = denormalise_patches(normalise_patches(images, 4, how), images, 4, how)  # type: ignore[arg-type]
    torch.testing.assert_close(again, images)


@pytest.mark.parametrize("objective", ["mae", "simmim"])
@pytest.mark.parametrize("normalise", ["none", "patch"])
def test_painted_where_asked_and_the_view_elsewhere(objective: str, normalise: str) -> None:
    planned, state, clean, view = made(objective=f"{objective}:normalise={normalise}")
    found = reconstruct(planned, state, clean, view)
    assert found is not None and found.shape == clean.shape
    hidden = state.head.encoder.grid.pixels(view.hidden).expand_as(clean)
    assert torch.equal(found[~hidden], clean[~hidden]) and not torch.isclose(found[hidden], clean[hidden]).all()
    if normalise == "patch":
        grid = state.head.encoder.grid
        with torch.no_grad():
            for name, parameter in state.head.named_parameters():
                if "predict" in name:
                    parameter.zero_()
        flat = grid.patchify(reconstruct(planned, state, clean, view))[view.hidden]
        means = grid.patchify(clean)[view.hidden].mean(-1, keepdim=True)
        torch.testing.assert_close(flat, means.expand_as(flat))  # a prediction of 0 is each patch's own mean


def test_what_paints_nothing_has_no_reconstruction() -> None:
    for changes in ({"strategy": "none", "objective": "supervised"}, {"strategy": "none", "objective": "random-init"},
                    {"strategy": "zoom-out"}, {"objective": "dino"}):  # fmt: skip
        planned, state, clean, view = made(**changes)
        assert reconstruct(planned, state, clean, view) is None, changes
