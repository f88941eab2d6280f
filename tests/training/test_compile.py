"""A compiled step: one graph, compiled in the first two steps and then never again. torch's tracing is what is tested,
so the graph is run as it is and not turned into machine code, which takes a minute each."""

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import _dynamo as dynamo

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.training.step import Trainer
from tests.helpers.one_step import NullStopwatch

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
    planned, splits = load_data(make_plan(parse_config(merge(load_preset("quick"), changes))))
    state = build_state(planned, splits)
    trainer = Trainer(planned.config, splits, planned.strategy, state, NullStopwatch())  # type: ignore[arg-type]
    state.head.train()
    state.head.compile(dynamic=False, fullgraph=True, backend="eager")
    for step in range(STEPS):
        dynamo.config.error_on_recompile = step >= TRACED
        progress, index = 0.2 + step / 10, torch.arange(16) + step
        _, output = trainer.forward_batch(index, 0, progress)
        output.loss.backward()
        trainer.update(progress + 1 / 10)
        state.optimizer.zero_grad(set_to_none=True)
    assert 1 <= dynamo.utils.counters["stats"]["unique_graphs"] <= TRACED
    assert not dynamo.utils.counters["graph_break"]
