"""A run's encoder as a folder that timm loads without maskbench: weights, timm's config.json, and a model card."""

import json
import warnings
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import numpy as np
from safetensors.torch import save as as_safetensors
from tabulate import tabulate
from torch import Tensor

from maskbench._version import __version__
from maskbench.analysis.predictions import UnreadablePredictions, read_predictions
from maskbench.analysis.results import count_test_images
from maskbench.config.plain_files import MAX_HEADER, NotPlain, parse_json, read_regular_file
from maskbench.errors import UsageError
from maskbench.models.encoder_sources import grid_from_arguments, read_finished_run
from maskbench.models.weight_formats import infer_arguments
from maskbench.record import RunRecord, locate_record
from maskbench.runs.artifacts import ensure_writable
from maskbench.runtime.atomic_files import write_atomically
from maskbench.runtime.escaping import as_keyword_arguments, as_yaml, code_span, escape_markdown

OURS = "maskbench"  # the key of config.json by which a folder is known to be an export, and of which run


def export(run: Path, output: Path | None = None) -> Path:
    """Write the encoder of a finished run to `output`, RUN/export if not given; the folder, which is also of the form
    that the Hugging Face hub takes. An earlier export of the same run is replaced.

    UsageError where `run` is no finished run's folder, and where `output` holds something else or cannot be written.
    """
    record, state = read_finished_run(run)
    if not all(record.dataset.get(key) for key in ("mean", "std")):
        raise UsageError(f"{run}: its record has no mean and std of the images, which an export needs; repeat the run")
    run = locate_record(run).parent
    folder = output or run / "export"
    if not _free(folder, record.run_id):
        raise UsageError(f"{folder} holds something else than an export of {record.run_id}; choose another --output")
    ensure_writable(folder)
    about = {key: json.dumps(value) for key, value in (("model", record.model), ("dataset", _moments(record)))}
    # The config first: it tells a folder that was left half-written from one that is somebody else's.
    write_atomically(folder / "config.json", json.dumps(timm_config(record), indent=1) + "\n")
    weights = as_safetensors(state, {"format": "pt", "run_id": record.run_id, **about})
    write_atomically(folder / "model.safetensors", weights)
    write_atomically(folder / "README.md", model_card(record, state, _classes(record, run)))
    return folder


def timm_config(record: RunRecord) -> dict[str, Any]:
    """config.json as timm's `local-dir:` and `hf-hub:` read it. Images are resized and cropped as for the probes."""
    name, arguments = record.model["name"], record.model["arguments"]
    return {
        "architecture": name,
        "num_classes": 0,
        "model_args": arguments,
        "pretrained_cfg": {
            **_moments(record),
            "input_size": [arguments["in_chans"], *arguments["img_size"]],
            "fixed_input_size": True,
            "interpolation": "bilinear",
            "crop_pct": 1.0,
            "crop_mode": "center",
            "num_classes": 0,
            "pool_size": None,
            "first_conv": None,  # or timm 1.0.16 would adapt weights of other than 3 channels, or leave them out
            "classifier": None,
        },
        OURS: {"run_id": record.run_id, "version": __version__},
    }


def model_card(record: RunRecord, state: dict[str, Tensor], classes: int | None) -> str:
    """README.md. classes: how many the test images have, None where that is not known."""
    template = resources.files("maskbench.templates").joinpath("model-card.md.jinja").read_text()
    environment = jinja2.Environment(
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
        finalize=lambda value: value if isinstance(value, _Source) else escape_markdown(str(value)),
    )
    environment.filters |= {"yaml": lambda text: _Source(as_yaml(text)), "code": lambda text: _Source(code_span(text))}
    grid = grid_from_arguments(record.model["arguments"])
    return environment.from_string(template).render(
        record=record,
        grid=grid,
        model=infer_arguments(state, grid.size),
        call=_Source(f"timm.create_model({', '.join([json.dumps(record.model['name']), *_arguments(record)])})"),
        classes=classes,
        epochs=record.curve[-1]["epoch"] if record.curve else 0,
        origin=_origin(record),
        probed=record.dataset.get("probed", record.dataset),
        metrics=_Source(
            tabulate(_metrics(record), ("metric", "value", "protocol"), tablefmt="pipe", disable_numparse=True)
        ),
        costs=_costs(record),
        version=__version__,
    )


class _Source(str):
    """Text of the card that is Markdown, YAML or Python already; all other text is escaped for Markdown."""


def _arguments(record: RunRecord) -> list[str]:
    arguments = as_keyword_arguments(record.model["arguments"])
    return [arguments] if arguments else []


def _free(folder: Path, run_id: str) -> bool:
    """Whether an export of the run may be written there: nothing is, or an export of the same run."""
    if not folder.exists():
        return True
    if not folder.is_dir() or not (folder / "config.json").is_file():
        return folder.is_dir() and not any(folder.iterdir())
    try:
        found = parse_json(read_regular_file(folder / "config.json", MAX_HEADER))
    except (OSError, NotPlain):
        return False
    return isinstance(found, dict) and isinstance(found.get(OURS), dict) and found[OURS].get("run_id") == run_id


def _moments(record: RunRecord) -> dict[str, list[float]]:
    return {key: record.dataset[key] for key in ("mean", "std")}


def _classes(record: RunRecord, run: Path) -> int | None:
    try:
        stored = read_predictions(run / "predictions.npz", count_test_images(record))
    except FileNotFoundError:
        return None
    except UnreadablePredictions as error:
        warnings.warn(f"skipped {error}", stacklevel=2)
        return None
    return len(np.unique(stored["labels"]))


def _origin(record: RunRecord) -> dict[str, str]:
    """What the encoder comes from; components as Markdown."""
    config, data = record.config, record.dataset
    return {
        "strategy": _component(record.strategy),
        "objective": _component(record.objective),
        "regime": config["regime"] + (f", ratio {config['ratio']}" if config["ratio"] is not None else ""),
        "data set": f"{data['name']}, fingerprint {data['fingerprint']}",
        "training images": f"{data['sizes']['train']:,}",
        "epochs": f"{record.curve[-1]['epoch']:g}" if record.curve else "0",
        "batch size": str(config["train"]["batch_size"]),
        "seed": str(record.seed),
        "made with": f"maskbench {record.environment.get('versions', {}).get('maskbench', '?')}",
        "run": record.run_id,
    }


def _component(about: dict[str, Any]) -> str:
    name = escape_markdown(f"{about['name']}, version {about['version']}: ")
    return _Source(name + code_span(json.dumps(about["parameters"])))


def _metrics(record: RunRecord) -> list[tuple[str, str, str]]:
    """Everything that the probes found, with the version of their protocol."""
    rows = []
    for name, value in record.metrics.items():
        if not name.startswith("cost/"):
            probes = [probe for probe in record.protocols if probe in name.split("/")]
            protocols = ", ".join(f"{probe} v{record.protocols[probe]}" for probe in probes)
            rows.append((escape_markdown(name), f"{value:.4g}", escape_markdown(protocols)))
    return rows


def _costs(record: RunRecord) -> dict[str, str]:
    """What the training cost, as far as that does not depend on the machine."""
    images = record.curve[-1].get("images") if record.curve else None
    gflops = record.metrics.get("cost/gflops_per_image")
    found = {
        "parameters of the encoder": f"{record.model.get('encoder_parameters', 0):,}",
        "parameters trained beside it": f"{record.model.get('head_parameters', 0):,}",
    }
    if images is not None:
        found["images seen"] = f"{images:,.0f}"
    if gflops is not None:
        found["GFLOPs an image (cost/gflops_per_image)"] = f"{gflops:.4g}"
    if images is not None and gflops is not None:
        found["TFLOPs in all"] = f"{gflops * images / 1000:.4g}"
    return found
