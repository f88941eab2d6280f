"""The files of a run, each whole or not there. The record comes last: a folder without one is an unfinished run."""

import io
import json
import os
import tempfile
from contextlib import suppress
from pathlib import Path

import numpy as np
import pandas as pd
import yaml
from safetensors.torch import save as as_safetensors

from maskbench.catalog.pictures import masks_figure, save
from maskbench.data.splits import Splits
from maskbench.errors import Failure, UsageError
from maskbench.probe import ProbeResult
from maskbench.record import EXTERNAL, RunRecord, UnreadableRecord, read_record_of_run
from maskbench.runs.checkpoint import Checkpoints
from maskbench.runs.lease import LOCK, Busy, hold_lease
from maskbench.runs.plan import Plan, example_view
from maskbench.runs.reconstruction import reconstruct
from maskbench.runs.run_facts import describe_model
from maskbench.runtime.atomic_files import (
    DISK_ERRNOS,
    PARTIAL_SUFFIX,
    describe_os_error,
    make_folder,
    remove_partial_files,
    write_atomically,
)
from maskbench.training.train_state import TrainState


def ensure_writable(root: Path, *below: str) -> None:
    """Make the folder `root`, and in it the folders `below`. UsageError where nothing can be written or one of `below`
    is a link, Failure where the disk is full or broken."""
    folder = root.joinpath(*below)
    try:
        make_folder(root, *below)
        with tempfile.TemporaryFile(dir=folder) as file:  # no name that another process could meet
            file.write(b"x")
    except OSError as error:
        if error.errno in DISK_ERRNOS:
            raise Failure(f"{folder}: {describe_os_error(error)}") from None
        raise UsageError(f"cannot write to {folder} ({error.strerror}); choose another --output") from None


def read_finished_record(folder: Path) -> RunRecord | None:
    """The record of a run that came to its end, complete or diverged; None where there is none or it failed.
    UsageError for one that cannot be read or is another run's: it is better looked at than overwritten."""
    if not os.path.lexists(folder / "record.json"):
        return None
    try:
        record = read_record_of_run(folder)
    except UnreadableRecord as error:
        raise UsageError(f"{error}; move it away, or repeat the run with --force") from None
    return None if record.status == "failed" else record


def remove_leftovers(folder: Path) -> None:
    """Remove checkpoints and locks of a complete run, which a process leaves that is killed right after the record."""
    with suppress(OSError, Busy):
        if any(list(folder.glob(pattern)) for pattern in ("checkpoint*", LOCK, f".*{PARTIAL_SUFFIX}")):
            with hold_lease(folder, waiting=None):
                Checkpoints(folder).remove()
                remove_partial_files(folder)


def write_config(plan: Plan) -> None:
    """Write config.yaml, with which the run can be repeated."""
    text = yaml.safe_dump(plan.config.model_dump(mode="json"), sort_keys=False)
    write_atomically(plan.folder / "config.yaml", text)


def write_artifacts(plan: Plan, splits: Splits, probed: Splits, state: TrainState, results: list[ProbeResult]) -> None:
    """Write what a finished training leaves beside the record.

    Curve, predictions on the test part of `probed`, encoder, and a picture of the masks; of an encoder from elsewhere
    the predictions alone.
    """
    folder = plan.folder
    write_curve(folder, state)
    smallest = np.min_scalar_type(len(probed.classes) - 1)
    predictions = {name: value for result in results for name, value in result.predictions.items()}
    compact = {name: value.cpu().numpy().astype(smallest) for name, value in predictions.items()}
    if compact:
        labels = probed.test.labels.cpu().numpy().astype(smallest)
        buffer = io.BytesIO()
        np.savez_compressed(buffer, allow_pickle=False, labels=labels, **compact)
        write_atomically(folder / "predictions.npz", buffer.getvalue())
    if plan.objective.name == EXTERNAL:
        return  # it lies elsewhere, and nothing was masked
    weights = {name: value.cpu().contiguous() for name, value in state.head.encoder.vit.state_dict().items()}
    about_model = json.dumps(describe_model(plan.config, state.head))
    encoder = as_safetensors(weights, {"model": about_model, "run_id": plan.run_id})
    write_atomically(folder / "encoder.safetensors", encoder)
    clean, view = example_view(plan, splits, state)
    reconstruction = reconstruct(plan, state, clean, view)
    named, grid = {plan.label: view}, state.head.encoder.grid
    figure = masks_figure(named, clean, grid, splits.mean, splits.std, painted=reconstruction)
    save(figure, folder / "masks.png")


def write_curve(folder: Path, state: TrainState) -> None:
    """Write metrics.csv, a row per epoch, as far as the training has come."""
    if state.curve:
        write_atomically(folder / "metrics.csv", pd.DataFrame(state.curve).to_csv(index=False, lineterminator="\n"))
