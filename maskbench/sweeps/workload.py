"""What one run has to do and to store, and how long that takes on one device or several."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, Field

from maskbench.bench.step import noise_splits
from maskbench.config.plain_files import MAX_STATUS, parse_json, read_regular_file
from maskbench.errors import UsageError
from maskbench.runs.plan import Plan, build_state
from maskbench.sweeps.time_estimate import Rates, images_seen
from maskbench.training.flops import encoding_gflops_per_image, training_gflops_per_image
from maskbench.training.train_state import TrainState

COUNTED_ON = 4  # images on which arithmetic is counted; it is the same for all
RESULT_BYTES = 2**20  # of a finished run beside its encoder: record, curve, predictions, pictures


class MeasuredStep(BaseModel):
    """The part of `maskbench bench step --json` that a plan needs, measured on a device like those of the plan.

    Attributes:
        flops_per_image: Of training.
        end_to_end_images_per_s: Of training, data and masks included.
    """

    flops_per_image: float = Field(gt=0)
    end_to_end_images_per_s: float = Field(gt=0)

    @property
    def flops_per_s(self) -> float:
        """Arithmetic of the device in training, end to end."""
        return self.flops_per_image * self.end_to_end_images_per_s


def read_measured_step(path: Path) -> MeasuredStep:
    """Read a file. UsageError where it is not what `maskbench bench step --json` prints."""
    try:
        return MeasuredStep.model_validate(parse_json(read_regular_file(path, MAX_STATUS)))
    except (OSError, ValueError):
        raise UsageError(
            f"{path} is not what `maskbench bench step --json` prints; make one on such a device"
        ) from None


@dataclass(frozen=True)
class Workload:
    """What a run has to do and to store, whatever the machine.

    Attributes:
        training_gflops: For each image in training.
        encoding_gflops: For each image that probes encode.
        trained_images: Images of training, epochs counted.
        encoded_images: Images that probes encode.
        steps: Of training.
        gradient_bytes: Exchanged in every step by devices that share the run.
        checkpoint_bytes: Of one checkpoint.
        result_bytes: Of what the finished run leaves.
    """

    training_gflops: float
    encoding_gflops: float
    trained_images: int
    encoded_images: int
    steps: int
    gradient_bytes: int
    checkpoint_bytes: int
    result_bytes: int


@dataclass(frozen=True)
class DevicePool:
    """The devices that a plan is for.

    Attributes:
        devices: In all.
        per_run: How many share a run.
        link_bytes: Bytes that a device sends, and receives, each second.
        image_bytes: Of an encoded image, where data are streamed; 0 where they are on the device.
    """

    devices: int
    per_run: int = 1
    link_bytes: float = 25e9
    image_bytes: float = 0.0

    def __post_init__(self) -> None:
        if self.devices % self.per_run:
            raise UsageError(f"{self.devices} devices cannot be shared out {self.per_run} to a run; choose a divisor")


def measure_workload(plan: Plan, images: int, tests: int) -> Workload:
    """Count a run's work on its model and a few images of noise; the data set is not read.

    Args:
        plan: The run.
        images: Number of training images.
        tests: Number of test images.
    """
    splits = noise_splits(plan, COUNTED_ON)
    state = build_state(plan, splits)
    trains = plan.objective.trains
    trained = images_seen(plan, images)
    return Workload(
        training_gflops=training_gflops_per_image(plan.config, splits, plan.strategy, state) if trains else 0.0,
        encoding_gflops=encoding_gflops_per_image(plan.config, state),
        trained_images=trained,
        encoded_images=images + tests,
        steps=trained // plan.config.train.batch_size,
        gradient_bytes=_trained_bytes(state),
        checkpoint_bytes=_bytes(state.state_dict()) + 2 * _trained_bytes(state) if trains else 0,
        result_bytes=_bytes(state.head.encoder.vit.state_dict()) + RESULT_BYTES,
    )


def _trained_bytes(state: TrainState) -> int:
    return sum(_bytes(parameter) for group in state.optimizer.param_groups for parameter in group["params"])


def _bytes(value: Any) -> int:
    """Of all tensors in nested dicts, lists and tuples."""
    if isinstance(value, torch.Tensor):
        return value.numel() * value.element_size()
    if isinstance(value, dict):
        return sum(map(_bytes, value.values()))
    return sum(map(_bytes, value)) if isinstance(value, list | tuple) else 0


def rates_from_flops(work: Workload, step: MeasuredStep) -> Rates:
    """Rates on one device that does as much arithmetic a second as in `step`, whatever the strategy.

    Of the probes only the encoding of images counts.
    """
    gflops_per_s = step.flops_per_s / 1e9
    probing_s = work.encoded_images * work.encoding_gflops / gflops_per_s
    return Rates(0.0, work.training_gflops / gflops_per_s, probing_s)


def run_seconds(work: Workload, rates: Rates, pool: DevicePool) -> float:
    """Seconds of one run on `pool.per_run` devices.

    They share the images evenly. In every step they exchange gradients by a ring: 2 (n - 1) / n of them go in and out
    of each device, during the backward pass, which is two thirds of the step. The longer of the two counts.
    """
    count = pool.per_run
    if count == 1 or not work.steps:
        return rates.overhead_s + work.trained_images * rates.train_s_per_image + rates.probing_s / count
    step = seconds_of_step(work, rates, pool)
    exchange = exchanged_bytes(work, pool) / pool.link_bytes
    return rates.overhead_s + work.steps * (step / 3 + max(2 * step / 3, exchange)) + rates.probing_s / count


def seconds_of_step(work: Workload, rates: Rates, pool: DevicePool) -> float:
    """Of one of the devices that share a run, without the exchange of gradients."""
    return work.trained_images / work.steps * rates.train_s_per_image / pool.per_run


def exchanged_bytes(work: Workload, pool: DevicePool) -> float:
    """Gradients that go in and out of each device in a step."""
    return 2 * (pool.per_run - 1) / pool.per_run * work.gradient_bytes
