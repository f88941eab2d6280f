"""Pictures of several strategies: what is drawn whole is said to be."""

from pathlib import Path

import pytest
from matplotlib.figure import Figure

from maskbench.api import create_strategy
from maskbench.catalog import gallery
from maskbench.catalog.sample_images import sample_batch


@pytest.mark.parametrize("all_strategies", [False, True])
def test_images_that_stay_whole_are_counted(
    all_strategies: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    figures: list[Figure] = []
    monkeypatch.setattr(gallery, "save", lambda figure, _: figures.append(figure))
    names = ("attmask-high", "block-ibot", "random", "gmml")
    specs = [{"name": name, "parameters": {}} for name in names]
    gallery.draw_strategies(specs, tmp_path / "a.png", "shapes", "32", 4, None, 0, 8, all_strategies)
    batch = sample_batch("shapes", "32", 4, 8)
    whole = []
    for name in names:
        view = batch.view(create_strategy(name))
        untouched = 0
        for number in range(8):
            hidden = view.hidden is not None and bool(view.hidden[number].any())
            untouched += not hidden and bool((view.images[number] == batch.images[number]).all())
        whole += [f"{name} {untouched} of 8"] if untouched else []
    assert {line.split(" ")[0] for line in whole} == {"attmask-high", "block-ibot"}
    expected = f"Images that are left whole, by chance as in training: {', '.join(whole)}."
    assert expected in figures[0].get_supxlabel()
