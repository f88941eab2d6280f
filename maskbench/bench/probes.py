"""What it costs to ask an encoder."""

import time
from functools import partial
from typing import Any

import torch
from tabulate import tabulate

from maskbench.bench.machine import described, wait
from maskbench.config.schema import RunConfig
from maskbench.data import shapes
from maskbench.data.splits import Splits, assemble
from maskbench.probe import Subject
from maskbench.runs.plan import asked_about, build, load_splits, plan, preflight
from maskbench.runtime.hardware import peak_memory_mib, reset_peak_memory, settle

TEST_SHARE = 0.2


def time_probes(config: RunConfig, images: int | None) -> dict[str, Any]:
    """Seconds of every probe of the configuration, once, asked of an encoder as initialised; features, which most need
    and which are made once, apart. images: how many generated ones instead of the configuration's data.

    {"machine", "images", "features": {"seconds", "images_per_s"}, "rows": [{"probe", "seconds"}], "peak_memory_mib"}
    """
    planned = plan(config)
    settle(planned.config.system)
    if images is None:
        planned, splits = load_splits(planned)
    else:
        splits = _generated(planned.config, images)
    device = splits.train.labels.device
    state = build(planned, splits)
    preflight(planned, splits, state)
    asked = asked_about(planned, splits)
    subject = Subject(state.head.encoder, asked, planned.config.system, planned.config.seed)
    reset_peak_memory(device)
    count = len(asked.train) + len(asked.test)
    features = _seconds(subject.features, device)
    rows = [{"probe": probe.name, "seconds": _seconds(partial(probe, subject), device)} for probe in planned.probes]
    return {
        "machine": described(device),
        "images": count,
        "features": {"seconds": features, "images_per_s": count / features},
        "rows": rows,
        "peak_memory_mib": peak_memory_mib(device),
    }


def _generated(config: RunConfig, images: int) -> Splits:
    """Shapes, so that every probe has what it needs."""
    rows, cols = config.data.img_size
    parts = {"train": images, "test": max(len(shapes.CLASSES), round(TEST_SHARE * images))}
    made = {name: shapes.generate(name, count, rows, cols, config.data.in_chans) for name, count in parts.items()}
    splits = assemble("shapes", made["train"], made["test"], classes=shapes.CLASSES, fingerprint="generated")
    return splits.to(torch.device(config.system.device))


def _seconds(call: Any, device: torch.device) -> float:
    wait(device)
    start = time.perf_counter()
    call()
    wait(device)
    return time.perf_counter() - start


def print_probes(found: dict[str, Any]) -> None:
    """On stdout, a row a probe."""
    features, machine = found["features"], found["machine"]
    rows = [["features", f"{features['seconds']:.1f}"]]
    rows += [[row["probe"], f"{row['seconds']:.1f}"] for row in found["rows"]]
    print(tabulate(rows, headers=["probe", "s"], tablefmt="github", disable_numparse=True))
    where = machine["gpu"] or f"{machine['cpu']}, {machine['threads']} threads"
    print(
        f"\n{found['images']:,} images encoded at {features['images_per_s']:,.0f} a second; once each; "
        f"{found['peak_memory_mib']:,.0f} MiB at most; {where}; torch {machine['torch']}"
    )
