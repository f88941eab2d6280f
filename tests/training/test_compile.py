"""A compiled step: one graph, compiled in the first two steps and then never again. torch's tracing is what is tested,
so the graph is run as it is and not turned into machine code, which takes a minute each."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import _dynamo as dynamo

from maskbench.config.schema import merge, parse, preset
from maskbench.runs.plan import build, load_splits, plan
from maskbench.training.loop import outcome_of, update
from tests.training.test_no_sync import Watch

STEPS, TRACED = 5, 2
SMALL = {"dino": {"prototypes": 64, "hidden": 32, "bottleneck": 16}, "barlow": {"width": 64}}
SMALL["ibot"] = SMALL["dino"]


@pytest.fixture(autouse=True)
def forgetful() -> Iterator[None]:
    """What was compiled for other tests plays no part, and strictness ends with the test."""
    dynamo.reset()
    dynamo.utils.counters.clear()
    with dynamo.config.patch(error_on_recompile=False):
        yield
    dynamo.reset()


@pytest.mark.parametrize(
    ("strategy", "objective", "settings"),
    [
        ("random", "mae", {}),
        ("block", "mae", {}),  # a number of tokens that varies
        ("zoom-in-mask", "mae", {}),  # two terms, one warped
        ("attention-throw", "simmim", {"regime": "matched"}),
        ("gmml", "gmml", {}),
        ("random", "dino", {"objective.parameters.warmup": 0.5}),
        ("attmask-high", "ibot", {"regime": "matched", "objective.parameters.warmup": 0.5}),
        ("none", "barlow", {}),
        ("none", "supervised", {}),
    ],
)
def test_one_graph_and_no_second_compilation(strategy: str, objective: str, settings: dict[str, Any]) -> None:
    changes = {
        "strategy": strategy, "system.device": "cpu", "system.precision": "bf16", "train.batch_size": 16,
        "data.limit": 40, "data.img_size": 16, "model.kwargs": {"embed_dim": 32, "depth": 2, "num_heads": 2},
        "objective": {"name": objective, "parameters": SMALL.get(objective, {})}, **settings,
    }  # fmt: skip
    planned, splits = load_splits(plan(parse(merge(preset("quick"), changes))))
    state = build(planned, splits)
    state.head.train()
    state.head.compile(dynamic=False, fullgraph=True, backend="eager")
    for step in range(STEPS):
        dynamo.config.error_on_recompile = step >= TRACED
        progress, index = 0.2 + step / 10, torch.arange(16) + step
        _, outcome = outcome_of(planned.config, splits, planned.strategy, state, index, 0, progress, Watch())  # type: ignore[arg-type]
        outcome.loss.backward()
        update(planned.config, state, STEPS)
        state.optimizer.zero_grad(set_to_none=True)
        state.head.after_step(progress + 1 / 10)
    assert 1 <= dynamo.utils.counters["stats"]["unique_graphs"] <= TRACED
    assert not dynamo.utils.counters["graph_break"]
