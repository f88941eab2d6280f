"""What a suite takes elsewhere: arithmetic by hand, and schedules by a second computation."""

import json
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as some
from safetensors.torch import save as as_safetensors

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.errors import UsageError
from maskbench.runs.checkpoint import seal
from maskbench.runs.plan import build_state, load_data, make_plan
from maskbench.sweeps.capacity_plan import forecast, makespan_s
from maskbench.sweeps.time_estimate import Rates, seconds_per_step
from maskbench.sweeps.workload import (
    RESULT_BYTES,
    DevicePool,
    MeasuredStep,
    Workload,
    measure_workload,
    rates_from_flops,
    run_seconds,
)
from tests.helpers.command_line import maskbench

SMALL = {"embed_dim": 64, "depth": 3, "num_heads": 1}
WORK = Workload(
    training_gflops=3.0, encoding_gflops=1.0, trained_images=1_000, encoded_images=300, steps=10,
    gradient_bytes=80_000_000, checkpoint_bytes=500, result_bytes=7,
)  # fmt: skip
RATES = Rates(overhead_s=5.0, train_s_per_image=0.02, probing_s=8.0)


def test_work_by_hand() -> None:
    """The layers that `test_flops_of_a_step_by_hand` adds up, here for the encoder alone and with all tokens."""
    changes = {"strategy": "random", "model.kwargs": SMALL, "data.img_size": 16, "system.device": "cpu",
               "train.batch_size": 32, "train.epochs": 3}  # fmt: skip
    planned = make_plan(parse_config(merge(load_preset("quick"), changes)))
    work = measure_workload(planned, images=100, tests=40)
    tokens, width = 16 + 1, 64
    blocks = 3 * 2 * (12 * width**2 * tokens + 2 * tokens**2 * width)
    assert work.encoding_gflops * 1e9 == pytest.approx(blocks + 2 * 48 * width * 16)
    assert (work.trained_images, work.steps, work.encoded_images) == (3 * 96, 9, 140)  # three whole batches an epoch
    assert 1 < work.training_gflops / work.encoding_gflops < 4  # a quarter of the tokens, decoded too, and backwards


def test_what_is_kept_has_the_predicted_size(tmp_path: Path) -> None:
    """A checkpoint as it is written after a step, an encoder as it is exported."""
    changes = {"strategy": "attmask-high", "data.limit": 64, "train.batch_size": 32, "output": str(tmp_path)}
    planned, splits = load_data(make_plan(parse_config(merge(load_preset("quick"), changes))))
    work, state = measure_workload(planned, 64, 10), build_state(planned, splits)
    seconds_per_step(planned, splits, state, 1)
    assert len(seal({"state": state.state_dict()})) == pytest.approx(work.checkpoint_bytes, rel=0.05)
    encoder = as_safetensors(state.head.encoder.vit.state_dict())
    assert len(encoder) == pytest.approx(work.result_bytes - RESULT_BYTES, rel=0.05)
    assert work.gradient_bytes == 4 * sum(p.numel() for p in state.head.parameters() if p.requires_grad)


def test_seconds_of_a_run() -> None:
    assert run_seconds(WORK, RATES, DevicePool(4)) == 5 + 1_000 * 0.02 + 8
    # 10 steps of 100 images, 0.5 s each on 4 devices; 120 MB at 1 GB/s go behind the backward pass, at 0.1 GB/s do not.
    assert run_seconds(WORK, RATES, DevicePool(4, 4, link_bytes=1e9)) == pytest.approx(5 + 10 * 0.5 + 8 / 4)
    slow = run_seconds(WORK, RATES, DevicePool(4, 4, link_bytes=1e8))
    assert slow == pytest.approx(5 + 10 * (0.5 / 3 + 1.2) + 8 / 4)


def test_rates_by_arithmetic() -> None:
    rates = rates_from_flops(WORK, MeasuredStep(flops_per_image=6e9, end_to_end_images_per_s=50))  # 300 GFLOP/s
    assert rates.train_s_per_image == pytest.approx(3 / 300) and rates.probing_s == pytest.approx(300 * 1 / 300)


@settings(deadline=None, max_examples=50)
@given(some.lists(some.integers(1, 20), min_size=1, max_size=12), some.integers(1, 4))
def test_a_schedule_second_by_second(durations: list[int], slots: int) -> None:
    waiting, running, clock = list(durations), [0] * slots, 0
    while waiting or any(running):
        for slot in range(slots):
            if not running[slot] and waiting:
                running[slot] = waiting.pop(0)
        running = [max(0, left - 1) for left in running]
        clock += 1
    assert makespan_s(durations, slots) == clock


def test_sums_over_runs() -> None:
    runs = [("one", WORK, RATES)] * 3 + [("other", WORK, Rates(0, 0.01, 0))]
    found = forecast(runs, DevicePool(4, 2, image_bytes=1000))
    assert found.at_once == 2 and found.runs == 4 and [row.runs for row in found.rows] == [3, 1]
    assert found.left_bytes == 4 * 7 and found.checkpoint_bytes == 2 * 2 * 500
    assert found.read_bytes_per_s == pytest.approx(1000 * 2 / 0.02 + 1000 * 2 / 0.01)
    assert found.exchanged_bytes_per_s == pytest.approx(80e6 / (100 * 0.01 / 2))
    assert found.device_s == pytest.approx(2 * (3 * (5 + 10 + 4) + 5))


def test_devices_that_cannot_be_shared_out() -> None:
    with pytest.raises(UsageError, match="7 devices"):
        DevicePool(7, 2)


def test_a_suite_whose_data_are_elsewhere(tmp_path: Path) -> None:
    (tmp_path / "suite.yaml").write_text(
        "preset: quick\nset: {data.dataset: ./nowhere, regime: matched}\nstrategies: [random]\nseeds: 0-3\n"
    )
    (tmp_path / "step.json").write_text('{"flops_per_image": 1e9, "end_to_end_images_per_s": 1000, "more": 1}')
    given_ = ["--suite", "./suite.yaml", "--devices", "4"]
    numbers = ["--images", "100000", "--test-images", "1000"]
    done = maskbench("plan", *given_, *numbers, "--step", "step.json", "--json", cwd=tmp_path)
    assert done.code == 0, done.err
    found = json.loads(done.out)
    assert found["runs"] == 12 and found["at_once"] == 4 and found["not_counted"] == ["knn", "linear"]
    random = next(row for row in found["rows"] if row["strategy"] == "random")
    assert random["images_per_s"] == pytest.approx(1e12 / 1e9 / random["gflops_per_image"])
    shown = maskbench("plan", *given_, *numbers, "--step", "step.json", cwd=tmp_path)
    assert "12 runs, 4 at a time" in shown.out
    for words, remedy in (
        (numbers, "--step"),
        (["--step", "step.json"], "nowhere"),
        ([*numbers, "--step", "suite.yaml"], "bench step --json"),
    ):
        refused = maskbench("plan", *given_, *words, cwd=tmp_path)
        assert refused.code == 2 and remedy in refused.err and len(refused.err.splitlines()) == 1
