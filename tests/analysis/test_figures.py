"""Figures: what they draw is what the records say, and everything can be read, with 1, 4 and 30 strategies."""

import math
import random
from pathlib import Path
from typing import Any

import matplotlib
import pytest
import scipy.stats
from matplotlib.figure import Figure
from matplotlib.text import Text
from matplotlib.transforms import Bbox

from maskbench.analysis.figures import draw_figures, write_figures
from maskbench.analysis.figures.accuracy_against_cost import pareto_front
from maskbench.analysis.figures.style import COLOURS, MANY, RC, assign_looks, pick_coloured
from maskbench.analysis.results import Results
from maskbench.record import RunRecord
from tests.helpers.records import record

LONG = "hard-patches-predicted"


def runs(names: list[str], seeds: int, **changes: Any) -> list[RunRecord]:
    """Made-up runs whose accuracies, rates, curves and diagnostics differ."""
    made = []
    for place, name in enumerate(names):
        for seed in range(seeds):
            luck = random.Random(f"{name} {seed}")
            accuracy = 0.35 + 0.2 * place / len(names) + luck.gauss(0, 0.01)
            rate = 300 + 700 * (place * 7 % len(names)) / len(names)
            curve = [
                {"epoch": float(epoch), "images": 1e4 * epoch, "cost/train_s": 1e4 * epoch / rate,
                 "online/knn/top1/mean": accuracy * (1 - math.exp(-epoch / 3))} for epoch in (2, 4, 6)
            ]  # fmt: skip
            found = {"realised_ratio_mean": 0.75, "object_hidden": 0.5 + place / 100, "group_size": 10.0 + place}
            one = record(name, seed, accuracy, curve=curve, diagnostics=found, **changes)
            one.metrics["cost/images_per_s"] = rate
            made.append(one)
    return made


def figures_of(records: list[RunRecord]) -> dict[str, Figure]:
    with matplotlib.rc_context(RC):
        return dict(draw_figures(Results(Path(), records, [])))


def names(count: int) -> list[str]:
    return ["random", LONG, *(f"strategy-{number}" for number in range(count))][:count]


def boxes(figure: Figure) -> tuple[Bbox, list[tuple[str, Bbox]]]:
    """The figure's extent and that of each text in it, in pixels."""
    with matplotlib.rc_context(RC):
        figure.set_dpi(RC["savefig.dpi"])
        figure.canvas.draw()
        renderer = figure.canvas.get_renderer()  # type: ignore[attr-defined]
        inside = [axes.get_xaxis() for axes in figure.axes] + [axes.get_yaxis() for axes in figure.axes]
        ticks = [label for axis in inside for label in axis.get_ticklabels() if _within(axis, label)]
        others = [text for text in figure.findobj(Text) if text not in set(_all_ticks(inside))]
        texts = [text for text in (*ticks, *others) if text.get_text() and text.get_visible()]
        return figure.bbox, [(text.get_text(), text.get_window_extent(renderer)) for text in texts]


def _all_ticks(axes: list[Any]) -> list[Text]:
    return [
        label for axis in axes for tick in (*axis.majorTicks, *axis.minorTicks) for label in (tick.label1, tick.label2)
    ]


def _within(axis: Any, label: Text) -> bool:
    low, high = sorted(axis.get_view_interval())
    place = label.get_position()[0 if axis.axis_name == "x" else 1]
    return low - 1e-9 <= place <= high + 1e-9


def several_settings() -> list[RunRecord]:
    """One strategy several times, so that its labels are long."""
    objective = "objective.parameters."
    return [
        one
        for width in (64, 96)
        for depth in (1, 2)
        for one in runs([LONG], 3, settings={
            f"{objective}decoder_width": width, f"{objective}decoder_depth": depth, "train.lr": depth / 1e3,
            "train.weight_decay": width / 1e3})
    ]  # fmt: skip


@pytest.mark.parametrize("count", [1, 4, 30, "several settings"])
def test_every_text_is_whole_and_none_lies_on_another(count: int | str) -> None:
    records = [*runs(["random"], 3), *several_settings()] if isinstance(count, str) else runs(names(count), 3)
    for name, figure in figures_of([*records, *runs(["random-init"], 3)]).items():
        whole, texts = boxes(figure)
        assert figure.get_figwidth() == pytest.approx(8 / 2.54, abs=0.01)
        for text, box in texts:
            assert whole.x0 - 1 <= box.x0 and box.x1 <= whole.x1 + 1, f"{name}: {text!r} is cut off"
            assert whole.y0 - 1 <= box.y0 and box.y1 <= whole.y1 + 1, f"{name}: {text!r} is cut off"
            assert box.height >= 0.6 * 6.5 / 72 * figure.dpi, f"{name}: {text!r} is too small"
        for place, (text, box) in enumerate(texts):
            for other, theirs in texts[place + 1 :]:
                shared = Bbox.intersection(box, theirs)
                area = 0 if shared is None else shared.width * shared.height
                assert area < 0.05 * min(box.width * box.height, theirs.width * theirs.height), f"{text!r}, {other!r}"


def test_which_figures_there_are() -> None:
    assert set(figures_of(runs(["random"], 3))) == {
        "accuracy-against-cost", "learning-curves", "learning-curves-time", "learning-curves-flops"}  # fmt: skip
    assert set(figures_of(runs(names(4), 3))) >= {"differences", "diagnostics"}
    other = {**record().dataset, "name": "others", "fingerprint": "others-1"}
    both = runs(["random", "gmml"], 2) + runs(["random", "gmml"], 2, dataset=other)
    assert {"data-sets", "accuracy-against-cost-1", "accuracy-against-cost-2"} <= set(figures_of(both))
    assert figures_of([]) == {}


def test_differences_are_those_of_the_table() -> None:
    scores = {"random": (0.50, 0.52, 0.57), "gmml": (0.40, 0.43, 0.47)}
    made = [record(name, seed, value) for name, values in scores.items() for seed, value in enumerate(values)]
    axes = figures_of(made)["differences"].axes[0]
    points = next(line for line in axes.lines if len(line.get_xdata()) == 3)
    assert list(points.get_xdata()) == pytest.approx([-13, -10, -6])  # from random's mean, 53
    (segment,) = axes.collections[0].get_segments()  # type: ignore[attr-defined]
    interval = scipy.stats.ttest_ind(scores["gmml"], scores["random"], equal_var=False).confidence_interval()
    assert [x for x, _ in segment] == pytest.approx([100 * interval.low, 100 * interval.high], abs=1e-4)
    assert [label.get_text() for label in axes.get_yticklabels()] == ["gmml"] and "n = 3" in axes.get_xlabel()


def test_accuracy_by_ratio() -> None:
    made = [
        record(name, seed, 0.3 + ratio / 10 + seed / 100, diagnostics={"realised_ratio_mean": ratio},
               settings={"regime": "matched", "ratio": ratio})
        for name in ("random", "gmml") for ratio in (0.9, 0.5) for seed in (0, 1)
    ]  # fmt: skip
    axes = figures_of(made)["accuracy-against-ratio"].axes[0]
    means = [line for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2]
    assert len(means) == 2
    for line in means:
        assert list(line.get_xdata()) == [0.5, 0.9] and list(line.get_ydata()) == pytest.approx([35.5, 39.5])


def test_a_line_joins_ratios_alone() -> None:
    """Another objective is another line, another fill none."""
    made = [
        record("random", 0, accuracy, diagnostics={"realised_ratio_mean": ratio},
               settings={"regime": "matched", "ratio": ratio, "objective.parameters.decoder_width": width})
        for width, ratio, accuracy in ((64, 0.5, 0.5), (64, 0.75, 0.6), (32, 0.5, 0.3), (32, 0.75, 0.4))
    ]  # fmt: skip
    axes = figures_of(made)["accuracy-against-ratio"].axes[0]
    means = [
        list(line.get_ydata()) for line in axes.lines if line.get_linestyle() == "-" and len(line.get_xdata()) == 2
    ]
    assert sorted(means) == [pytest.approx([30, 40]), pytest.approx([50, 60])]
    fills = [
        record("gmml", 0, diagnostics={"realised_ratio_mean": ratio}, settings={"strategy": {"name": "gmml",
               "parameters": {"fill": fill}}}) for fill, ratio in (("noise", 0.412), ("zeros", 0.409))
    ]  # fmt: skip
    assert "accuracy-against-ratio" not in figures_of(fills)


def test_the_front_is_what_nobody_beats() -> None:
    """Against the definition, pair by pair."""
    luck = random.Random(0)
    points = {f"s{number}": (luck.randint(0, 9), luck.randint(0, 9)) for number in range(30)}
    found = pareto_front(points)
    for label, (x, y) in points.items():
        beaten = any(a >= x and b >= y and (a, b) != (x, y) for a, b in points.values())
        assert beaten == (points[label] not in [points[other] for other in found])
    assert [points[label][0] for label in found] == sorted(points[label][0] for label in found)


def test_of_many_the_best_the_baseline_and_the_front_are_shown() -> None:
    scores = {f"s{number:02}": number / 100 for number in range(30)}
    assert pick_coloured(dict(list(scores.items())[:MANY]), "s00") == set(list(scores)[:MANY])
    shown = pick_coloured(scores, "s00", ["s03"])
    assert len(shown) == MANY and {"s00", "s03", "s29", "s20"} <= shown


def test_looks() -> None:
    """A strategy's settings share its colour; eight strategies have colours and markers of their own."""
    few = assign_looks(["random", "gmml", "block", "gmml (ratio=0.5)"])
    assert few["gmml"]["color"] == few["gmml (ratio=0.5)"]["color"] != few["random"]["color"]
    assert few["gmml"]["marker"] != few["gmml (ratio=0.5)"]["marker"]
    eight = assign_looks([f"s{number}" for number in range(8)])
    assert {look["color"] for look in eight.values()} == set(COLOURS)
    assert len({look["marker"] for look in eight.values()}) == 8


def test_figures_of_before_go(tmp_path: Path) -> None:
    for name in ("differences.png", "differences-2.svg", "mine.png"):
        tmp_path.joinpath(name).write_bytes(b"old")
    write_figures(Results(tmp_path, runs(["random"], 2), []), tmp_path)
    assert not list(tmp_path.glob("differences*")) and (tmp_path / "learning-curves.svg").exists()
    assert (tmp_path / "mine.png").exists(), "not ours"
