"""Made-up run records, for tests of tables, figures and reports."""

from pathlib import Path
from typing import Any

from maskbench.config.resolve import load_preset, merge, parse_config
from maskbench.core.grid import Grid
from maskbench.models.encoder import timm_arguments
from maskbench.record import RunRecord


def record(strategy: str = "random", seed: int = 0, accuracy: float = 0.5, **changes: Any) -> RunRecord:
    """A record of the quick preset; `changes` replace fields, `settings` overrides its configuration."""
    control = strategy in ("random-init", "supervised")
    objective = strategy if control else "mae"
    name = "none" if control else strategy
    settings = {"strategy": name, "objective": objective, "seed": seed, **changes.pop("settings", {})}
    config = parse_config(merge(load_preset("quick"), settings)).model_dump(mode="json")
    metrics = {f"{probe}/top1/{pooling}": accuracy for probe in ("knn", "linear") for pooling in ("cls", "mean")}
    if objective != "random-init":
        metrics |= {"cost/images_per_s": 1000.0 + seed, "cost/mask_share": 0.01, "cost/gflops_per_image": 0.2}
    fields: dict[str, Any] = {
        "run_id": f"{name}-{abs(hash(str(settings))) % 10**8:08}-s{seed}",
        "status": "complete",
        "config": config,
        "strategy": {"name": name, "version": 1, "parameters": {}, "distribution": "maskbench 0.1.0"},
        "objective": {"name": objective, "version": 1, "parameters": {}},
        "dataset": {
            "name": "shapes",
            "fingerprint": "shapes-1",
            "sizes": {"train": 10_000, "validation": 1_000, "test": 2_000},
        },
        "model": {
            "name": "vit_tiny_patch16_224",
            "arguments": timm_arguments(Grid(8, 8, 4), 3, config["model"]["kwargs"]),
            "encoder_parameters": 1,
        },
        "seed": seed,
        "metrics": metrics,
        "protocols": {"knn": 1, "linear": 1},
        "diagnostics": {} if control else {"realised_ratio_mean": 0.75, "realised_ratio_sd": 0.0},
        "curve": [] if objective == "random-init" else [
            {"epoch": epoch, "images": 10_000 * epoch, "loss": 1.0, "cost/train_s": 10.0 * epoch,
             "online/knn/top1/mean": accuracy * epoch / 3} for epoch in (1, 2, 3)
        ],
        "chosen": {},
        "environment": {"cpu": "a cpu", "gpu": None},
    }  # fmt: skip
    return RunRecord(**{**fields, **changes})


def write_records(folder: Path, *records: RunRecord) -> Path:
    """Writes records into a results folder; returns it."""
    for each in records:
        path = folder / "runs" / each.run_id / "record.json"
        path.parent.mkdir(parents=True)
        each.write(path)
    return folder
