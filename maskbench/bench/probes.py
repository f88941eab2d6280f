"""What each probe costs."""

from dataclasses import dataclass
from functools import partial

import torch
from tabulate import tabulate

from maskbench.bench.machine import Machine, describe_machine, seconds_per_call
from maskbench.config.settings import RunConfig
from maskbench.data import shapes
from maskbench.data.splits import Splits, build_splits
from maskbench.probe import Subject
from maskbench.runs.plan import build_state, check_before_start, load_data, make_plan, probe_splits
from maskbench.runtime.hardware import configure_torch, peak_memory_mib, reset_peak_memory
from maskbench.runtime.standard_streams import print_data

TEST_SHARE = 0.2


@dataclass(frozen=True)
class FeatureTiming:
    """Encoding all images: seconds, and images a second."""

    seconds: float
    images_per_s: float


@dataclass(frozen=True)
class ProbeTiming:
    """One call of a probe on features that are there."""

    probe: str
    seconds: float


@dataclass(frozen=True)
class ProbeBenchmark:
    """`maskbench bench probes --json` prints the fields.

    Attributes:
        machine: Where it was measured.
        images: Of train and test.
        features: Encoding them, which most probes need and which is done once.
        rows: A row for each probe.
        peak_memory_mib: Most memory.
    """

    machine: Machine
    images: int
    features: FeatureTiming
    rows: list[ProbeTiming]
    peak_memory_mib: float


def time_probes(config: RunConfig, images: int | None) -> ProbeBenchmark:
    """Time every probe of a configuration once, on an encoder with initial weights.

    Args:
        config: The probes, the model and the data set.
        images: Number of generated training images to use instead of the data set; None: the data set.
    """
    plan = make_plan(config)
    configure_torch(plan.config.system)
    if images is None:
        plan, splits = load_data(plan)
    else:
        splits = _generate_splits(plan.config, images)
    device = splits.train.labels.device
    state = build_state(plan, splits)
    check_before_start(plan, splits, state)
    probed = probe_splits(plan, splits)
    subject = Subject(state.head.encoder, probed, plan.config.system, plan.config.seed)
    reset_peak_memory(device)
    count = len(probed.train) + len(probed.test)
    seconds = seconds_per_call(subject.features, 1, device)
    rows = [ProbeTiming(probe.name, seconds_per_call(partial(probe, subject), 1, device)) for probe in plan.probes]
    features = FeatureTiming(seconds, count / seconds)
    return ProbeBenchmark(describe_machine(device), count, features, rows, peak_memory_mib(device))


def _generate_splits(config: RunConfig, images: int) -> Splits:
    """Of the data set `shapes`, which has what every probe needs."""
    rows, cols = config.data.img_size
    counts = {"train": images, "test": max(len(shapes.CLASSES), round(TEST_SHARE * images))}
    made = {name: shapes.generate(name, count, rows, cols, config.data.in_chans) for name, count in counts.items()}
    splits = build_splits("shapes", made["train"], made["test"], classes=shapes.CLASSES, fingerprint="generated")
    return splits.to(torch.device(config.system.device))


def print_probes(found: ProbeBenchmark) -> None:
    """On stdout, a row for each probe."""
    features, machine = found.features, found.machine
    rows = [["features", f"{features.seconds:.1f}"]]
    rows += [[row.probe, f"{row.seconds:.1f}"] for row in found.rows]
    print_data(tabulate(rows, headers=["probe", "s"], tablefmt="github", disable_numparse=True))
    where = machine.gpu or f"{machine.cpu}, {machine.threads} threads"
    print_data(
        f"\n{found.images:,} images encoded at {features.images_per_s:,.0f} a second; once each; "
        f"{found.peak_memory_mib:,.0f} MiB at most; {where}; torch {machine.torch}"
    )
