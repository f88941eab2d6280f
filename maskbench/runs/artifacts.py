"""The files of a run, each whole or not there, the record last: a folder without one is of a run that is not done."""

import io
import json
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import save as as_safetensors

from maskbench.catalog.render import masks_figure, save
from maskbench.data.splits import Splits
from maskbench.errors import Failure, UsageError
from maskbench.probe import ProbeResult
from maskbench.record import EXTERNAL, RunRecord, Unreadable, read_record
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.lease import LOCK, Busy, claim
from maskbench.runs.plan import Plan, pictured
from maskbench.runs.reconstruction import painted
from maskbench.runs.run_facts import model_facts
from maskbench.runtime.atomic_files import BROKEN, PARTIAL, remove_partial, trouble, write_atomically
from maskbench.training.train_state import State


def writable(folder: Path) -> None:
    """Make `folder` if need be; UsageError where nothing can be written, Failure where the disk is full or broken."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder) as file:  # no name that another process could meet
            file.write(b"x")
    except OSError as error:
        if error.errno in BROKEN:
            raise Failure(f"{folder}: {trouble(error)}") from None
        raise UsageError(f"cannot write to {folder} ({error.strerror}); choose another --output") from None


def finished(folder: Path) -> RunRecord | None:
    """The record of a run that came to its end, complete or diverged; None where there is none or it failed.
    UsageError for one that cannot be read, which is better looked at than overwritten."""
    path = folder / "record.json"
    if not path.exists():
        return None
    try:
        record = read_record(path)
    except Unreadable as error:
        raise UsageError(f"{error}; move it away, or repeat the run with --force") from None
    return None if record.status == "failed" else record


def tidy(folder: Path) -> None:
    """Remove what a process leaves in a complete run's folder that is killed right after it wrote the record."""
    with suppress(OSError, Busy):
        if any(list(folder.glob(pattern)) for pattern in ("checkpoint*", LOCK, f".*{PARTIAL}")):
            with claim(folder, waiting=None):
                Checkpoints(folder).remove()
                remove_partial(folder)


def write_config(planned: Plan) -> None:
    """config.yaml, with which the run can be repeated."""
    text = yaml.safe_dump(planned.config.model_dump(mode="json"), sort_keys=False)
    write_atomically(planned.folder / "config.yaml", text)


def write_files(planned: Plan, splits: Splits, asked: Splits, state: State, results: list[ProbeResult]) -> None:
    """What a finished training leaves beside the record: curve, predictions on the test part of `asked`, encoder,
    picture of the masks; of an encoder from elsewhere, the predictions alone."""
    folder = planned.folder
    write_curve(folder, state)
    smallest = np.min_scalar_type(len(asked.classes) - 1)
    predictions = {name: value for result in results for name, value in result.predictions.items()}
    compact = {name: value.cpu().numpy().astype(smallest) for name, value in predictions.items()}
    if compact:
        labels = asked.test.labels.cpu().numpy().astype(smallest)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, labels=labels, **compact)
        write_atomically(folder / "predictions.npz", buffer.getvalue())
    if planned.objective.name == EXTERNAL:
        return  # it lies elsewhere, and nothing was masked
    weights = {name: value.cpu().contiguous() for name, value in state.head.encoder.vit.state_dict().items()}
    about_model = json.dumps(model_facts(planned.config, state.head))
    encoder = as_safetensors(weights, {"model": about_model, "run_id": planned.run_id})
    write_atomically(folder / "encoder.safetensors", encoder)
    clean, view = pictured(planned, splits, state)
    reconstruction = painted(planned, state, clean, view)
    named, grid = {planned.label: view}, state.head.encoder.grid
    figure = masks_figure(named, clean, grid, splits.mean, splits.std, painted=reconstruction)
    save(figure, folder / "masks.png")


def write_curve(folder: Path, state: State) -> None:
    """metrics.csv, a row an epoch, as far as the training has come."""
    if state.curve:
        write_atomically(folder / "metrics.csv", pd.DataFrame(state.curve).to_csv(index=False, lineterminator="\n"))
