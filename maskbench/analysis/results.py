"""What a results folder holds, and its records as a data frame with one row for each run."""

import json
import shlex
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from maskbench.analysis.metrics import PRIMARY
from maskbench.analysis.predictions import UnreadablePredictions, read_predictions
from maskbench.config.settings import LATER_SETTINGS
from maskbench.errors import UsageError
from maskbench.record import EXTERNAL, RunRecord, UnreadableRecord, read_record_of_run, record_paths
from maskbench.runtime.escaping import escape_control, print_message

CONTROLS = ("random-init", "supervised")


@dataclass(frozen=True)
class Results:
    """A results folder.

    Attributes:
        folder: Its path.
        records: The records of its runs, in order of run id.
        trials: The records of the tuning trials by which settings were chosen.
    """

    folder: Path
    records: list[RunRecord]
    trials: list[RunRecord]

    @cached_property
    def frame(self) -> pd.DataFrame:
        """The records as a table, one row a run; see `to_frame`."""
        return to_frame(self.records)

    def predictions(self, run_id: str) -> dict[str, np.ndarray] | None:
        """The classes that the run's probes predict for the n test images, by probe and pooling.

        Returns:
            Arrays of shape (n,), or (repetitions, n) where a probe repeats; "labels" holds the true classes. None where
            predictions were not kept, or are not those of the record's test images; the latter prints a line on stderr.
        """
        record = next(record for record in self.records if record.run_id == run_id)
        path = self.folder / "runs" / run_id / "predictions.npz"
        try:
            return read_predictions(path, count_test_images(record))
        except FileNotFoundError:
            return None
        except UnreadablePredictions as error:
            print_message(f"skipped {error}")
            return None


def count_test_images(record: RunRecord) -> int:
    """How many test images a run was scored on; 0 where its record does not say."""
    sizes = (record.dataset.get("probed") or record.dataset).get("sizes")
    count = sizes.get("test") if isinstance(sizes, dict) else None
    return count if isinstance(count, int) else 0


def read_results(folder: Path) -> Results:
    """Everything under `folder` that can be read. UsageError where there is no such folder."""
    trials = folder / "trials"
    return Results(folder, read_records(folder), _read_trials(trials) if trials.is_dir() else [])


def _read_trials(folder: Path) -> list[RunRecord]:
    """The records in `folder` that are of trials; others are named on stderr."""
    records = read_records(folder)
    for record in records:
        if not _is_trial(record):
            print_message(f"skipped {record.run_id} in {folder}: it is no trial")
    return [record for record in records if _is_trial(record)]


def _is_trial(record: RunRecord) -> bool:
    tuning = record.config.get("tuning")
    return tuning is not None and tuning["trial"] and "cost/wall_s" in record.metrics


def read_records(folder: Path) -> list[RunRecord]:
    """All records under `folder`, in order of run id. A file that is broken or too new is left out with a line on
    stderr, and so is a run that counts already: a copy, or two runs of one row and seed. UsageError where there is no
    such folder."""
    if not folder.is_dir():
        raise UsageError(f"no folder {folder}; run `maskbench run --output {shlex.quote(str(folder))}` first")
    records = []
    for path in record_paths(folder):
        try:
            records.append(read_record_of_run(path.parent))
        except UnreadableRecord as reason:
            print_message(f"skipped {reason}")
    return _leave_out_repeated(folder, records)


def _leave_out_repeated(folder: Path, records: list[RunRecord]) -> list[RunRecord]:
    """The records without those that would stand in one row with one seed: nothing says which of them counts. Each is
    named on stderr."""
    groups = [group_of(record) for record in records]
    rows: dict[tuple[str, str, int], list[RunRecord]] = {}
    for record, group, label in zip(records, groups, _labels(records, groups), strict=True):
        rows.setdefault((group, label, record.seed), []).append(record)
    for (_, label, seed), runs in rows.items():
        if len(runs) > 1:
            names = ", ".join(run.run_id for run in runs)
            print_message(
                f"skipped {len(runs)} records in {folder} that are all {label} with seed {seed} ({names}); "
                f"move away all but one"
            )
    repeated = {id(run) for runs in rows.values() if len(runs) > 1 for run in runs}
    return [record for record in records if id(record) not in repeated]


def load_results(folder: str | Path) -> pd.DataFrame:
    """Read every record under a results folder into a data frame.

    Args:
        folder: A results folder, as `maskbench run --output` writes it.

    Returns:
        One row for each run, in order of group, label and seed. Columns: `run_id`, `group` (what runs of one table
        share), `label` (strategy or control, with the settings that differ within the group), `seed`, `status`
        (complete, diverged or failed), and every metric and diagnostic by its name; accuracies are shares in [0, 1].

    Raises:
        UsageError: There is no such folder.
    """
    return to_frame(read_records(Path(folder)))


def to_frame(records: Sequence[RunRecord]) -> pd.DataFrame:
    """The records as rows, in order of group, label and seed. `label` tells apart what a group compares."""
    rows = []
    groups = [group_of(record) for record in records]
    labels = _labels(records, groups)
    for record, group, label in zip(records, groups, labels, strict=True):
        rows.append(
            {
                "run_id": record.run_id,
                "group": group,
                "evaluation": evaluation_of(record),
                "label": label,
                "control": is_control(label),
                "strategy": record.strategy["name"],
                "objective": record.objective["name"],
                "dataset": record.dataset["name"],
                "seed": record.seed,
                "primary": record.config.get("primary", PRIMARY[0]),
                "status": record.status,
                "machine": record.environment.get("gpu") or record.environment.get("cpu") or "unknown",
                **_schedule(record),
                **record.metrics,
                **{name: value for name, value in record.diagnostics.items() if isinstance(value, float)},
            }
        )
    named = ["run_id", "group", "evaluation", "label", "control", "strategy", "objective", "dataset", "seed", "status"]
    table = pd.DataFrame(rows, columns=None if rows else [*named, "machine"])
    return table.sort_values(["group", "label", "seed"], kind="stable", ignore_index=True)


def split_groups(runs: pd.DataFrame) -> Iterator[tuple[str, pd.DataFrame]]:
    """Each group and its runs, in order. An encoder from elsewhere joins every group that evaluates as it does, and has
    a group of its own where none does."""
    external = runs["objective"] == EXTERNAL
    for group, members in runs[~external].groupby("group", sort=True):
        yield str(group), pd.concat([members, runs[external & runs["evaluation"].isin(members["evaluation"])]])
    alone = runs[external & ~runs["evaluation"].isin(runs["evaluation"][~external])]
    for group, members in alone.groupby("group", sort=True):
        yield str(group), members


def _schedule(record: RunRecord) -> dict[str, Any]:
    """How long the training was, and which of its settings were tuned."""
    tuning = record.config.get("tuning")
    schedule: dict[str, Any] = {}
    if tuning is not None:
        settings = ", ".join(f"{_short(path)}={_format(value)}" for path, value in tuning["settings"].items())
        schedule |= {"tuned": settings, "trials": tuning["trials"], "tuning_row": tuning["row"]}
    if record.curve:
        last = record.curve[-1]
        schedule["epochs"] = last["epoch"]
        if "images" in last and "cost/gflops_per_image" in record.metrics:
            schedule["cost/train_tflops"] = record.metrics["cost/gflops_per_image"] * last["images"] / 1000
    return schedule


def _format(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def is_control(label: str) -> bool:
    """Whether a row is there to compare with, and is no strategy."""
    return label.split(" ")[0] in CONTROLS or f"({EXTERNAL})" in label


def without_ratio(label: str) -> str:
    """ "gmml (fill=noise, ratio=0.5)" -> "gmml (fill=noise)"."""
    name, _, settings = label.removesuffix(")").partition(" (")
    rest = [setting for setting in settings.split(", ") if setting and not setting.startswith("ratio=")]
    return f"{name} ({', '.join(rest)})" if rest else name


def ratio_of(label: str) -> str:
    """ "gmml (fill=noise, ratio=0.5)" -> "ratio=0.5"; empty where the label has none."""
    settings = label.removesuffix(")").partition(" (")[2].split(", ")
    return next((setting for setting in settings if setting.startswith("ratio=")), "")


def evaluation_of(record: RunRecord) -> str:
    """How a record was evaluated: the data, and the probes with their parameters, whatever the encoder."""
    data = record.dataset.get("probed") or record.dataset
    probes = json.dumps(record.config["probes"], sort_keys=True)
    return f"{data['fingerprint']} {data['sizes']} | {_protocols(record)} | {probes}"


def _data(record: RunRecord) -> str:
    probed = record.dataset.get("probed")
    elsewhere = f", probed on {probed['name']} ({probed['fingerprint']})" if probed else ""
    trained = f"{record.dataset['name']} ({record.dataset['fingerprint']})"
    return f"{trained}, {record.dataset['sizes']['train']:,} images{elsewhere}"


def _protocols(record: RunRecord) -> str:
    return "probes " + ", ".join(f"{name} v{version}" for name, version in sorted(record.protocols.items()))


def group_of(record: RunRecord) -> str:
    """What two runs must share to stand in one table: data, model, budget, protocols. Readable and canonical. For
    encoders from elsewhere, data and protocols."""
    if record.objective["name"] == EXTERNAL:
        data_set = escape_control(_data(record)).replace(" | ", " / ")
        return f"{data_set} | encoders from elsewhere | {_protocols(record)}"
    config, data, train = record.config, record.config["data"], record.config["train"]
    model = record.model["arguments"]
    kwargs = config["model"]["kwargs"]
    size = "x".join(str(side) for side in data["img_size"])
    shape = ", ".join(f"{key} {value}" for key, value in kwargs.items())
    parts = [
        f"{_data(record)}, {size}x{data['in_chans']}",
        f"{config['model']['name']}, patch {model['patch_size']}" + (f", {shape}" if shape else ""),
        f"{_length(train)}, batch {train['batch_size']}",
        _protocols(record),
    ]
    return " | ".join(escape_control(part).replace(" | ", " / ") for part in parts)  # a name may have what divides them


def _length(train: dict[str, Any]) -> str:
    budget = train.get("budget")
    if budget is None:
        return f"{train['epochs']} epochs"
    ((unit, amount),) = budget.items()
    return f"{amount:g} {'s' if unit == 'seconds' else 'GFLOPs'} of training"


def _labels(records: Sequence[RunRecord], groups: Sequence[str]) -> list[str]:
    """The strategy's name, for controls the objective's, for encoders from elsewhere their own, marked; with the
    settings that differ where one name stands for several configurations in a group, and with the objective where a
    group trains by several."""
    names = [_name(record) for record in records]
    settings = [_settings(record) for record in records]
    values: dict[tuple[str, ...], set[str]] = {}
    for name, group, own in zip(names, groups, settings, strict=True):
        for key, value in own.items():
            values.setdefault((name, group, *_shared(key, own)), set()).add(value)
    objectives = {(group, own["objective.name"]) for name, group, own in zip(names, groups, settings, strict=True)
                  if "objective.name" in own and not is_control(name)}  # fmt: skip
    counts = Counter(group for group, _ in objectives)
    labels = []
    for name, group, own in zip(names, groups, settings, strict=True):
        shown_always = {"objective.name"} if counts[group] > 1 and not is_control(name) else set()
        differing = [key for key in own if key in shown_always or len(values[name, group, *_shared(key, own)]) > 1]
        shown = ", ".join(f"{_short(key)}={own[key]}" for key in differing)
        labels.append(f"{name} ({shown})" if shown else name)
    return labels


def _name(record: RunRecord) -> str:
    objective = record.objective
    if objective["name"] == EXTERNAL:
        return escape_control(f"{objective['parameters']['label']} ({EXTERNAL})")
    return escape_control(objective["name"] if objective["name"] in CONTROLS else record.strategy["name"])


def _shared(key: str, settings: dict[str, str]) -> tuple[str, ...]:
    """With whom a setting is compared: parameters of an objective only within that objective."""
    return (key, settings.get("objective.name", "")) if key.startswith("objective.parameters.") else (key,)


def _short(key: str) -> str:
    return "objective" if key == "objective.name" else key.rpartition(".")[2]


def _settings(record: RunRecord) -> dict[str, str]:
    """Every setting that makes a run another run, as dotted path -> JSON."""
    config = {key: value for key, value in record.config.items() if key not in ("seed", "output", "tuning", "primary")}
    if record.objective["name"] == EXTERNAL:  # known by its weights, and never trained here
        digest = record.objective["parameters"]["digest"][:8]
        config = {**config, "objective": {"digest": digest}, "train": {}}
    versions = {"strategy_version": record.strategy["version"], "objective_version": record.objective["version"]}
    config |= versions  # another version of a strategy hides otherwise, under the same settings
    config["tuned"] = record.config.get("tuning") is not None
    if record.config["train"].get("budget") is not None:
        config["train"] = {key: value for key, value in config["train"].items() if key != "warmup_epochs"}
    for section, machine in (("system", ("device", "workers")), ("data", ("memory_gib",)), ("train", ("accumulate",))):
        config[section] = {key: value for key, value in config[section].items() if key not in machine}
    flat: dict[str, str] = {}

    def flatten(prefix: str, value: Any) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                flatten(f"{prefix}.{key}" if prefix else key, inner)
        else:
            flat[prefix] = json.dumps(value).strip('"')

    flatten("", config)
    later = {path: json.dumps(usual).strip('"') for path, usual in LATER_SETTINGS.items()}
    return {**later, **flat}
