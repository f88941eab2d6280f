"""Everything that the probes say, a row a question and a column an encoder, where they say more than the comparison."""

from functools import partial
from typing import Any

import numpy as np
import pandas as pd

from maskbench.analysis import statistics
from maskbench.analysis.comparison import METRICS, PRIMARY, groups, rank, stable
from maskbench.analysis.results import Results
from maskbench.analysis.table_formats import Column, Row, Section

SHARES = ("top1", "sd", "miou", "pixel-accuracy", "attention-iou")  # shown in %
NO_ANSWER = ("cost", "validation")  # metrics that no probe gave, or that chose settings


def sections(results: Results) -> list[Section]:
    """For each group asked anything beyond k-NN and linear.

    A row: {"label" (the question), and for each encoder's label {"mean", "low", "high"}}; "of": what rows are;
    "encoders": labels in order with their n.
    """
    metrics = {record.run_id: record.metrics for record in results.records}
    found = []
    for group, members in groups(results.frame) if results.records else ():
        complete = members[members["status"] == "complete"]
        answers = _answers(complete, metrics)
        if not answers.keys() - {*METRICS}:
            continue
        metric = next((name for name in PRIMARY if name in answers), next(iter(answers)))
        order = sorted(complete["label"].unique(), key=lambda label: rank(label, answers[metric].get(label)))
        rows = [{**answers[name], "label": name.replace("/", " ")} for name in answers]
        counts = complete["label"].value_counts()
        encoders = {str(label): int(counts[label]) for label in order}
        section = {"group": group, "about": "Probes", "of": "probe", "encoders": encoders, "rows": rows}
        found.append({**section, "notes": _notes(section)})
    return found


def _answers(runs: pd.DataFrame, metrics: dict[str, dict[str, float]]) -> dict[str, dict[str, dict[str, Any]]]:
    """By metric and label, in the order in which the records have them, poolings beside each other."""
    values: dict[str, dict[str, list[float]]] = {}
    for run_id, label in zip(runs["run_id"], runs["label"], strict=True):
        for name, value in metrics[run_id].items():
            if name.split("/")[0] not in NO_ANSWER:
                values.setdefault(name, {}).setdefault(str(label), []).append(value)
    questions = list(dict.fromkeys(name.rpartition("/")[0] for name in values))
    ordered = sorted(values, key=lambda name: (questions.index(name.rpartition("/")[0]), name))
    return {name: {label: _interval(own) for label, own in values[name].items()} for name in ordered}


def _interval(values: list[float]) -> dict[str, Any]:
    found = statistics.mean_interval(values)
    return {"mean": stable(float(np.mean(values))), "low": stable(found.low), "high": stable(found.high)}


def _share(question: str) -> bool:
    return any(part in SHARES for part in question.split(" "))


def columns_of(section: Section) -> list[Column]:
    """A column for each encoder."""
    return [Column(label, partial(_cell, label)) for label in section["encoders"]]


def _cell(label: str, row: Row) -> str | None:
    answer = row.get(label)
    if answer is None:
        return None
    scale, form = (100, "{:.1f}") if _share(row["label"]) else (1, "{:.2f}")
    half = "" if answer["low"] is None else f" ± {form.format(scale * (answer['high'] - answer['low']) / 2)}"
    return f"{form.format(scale * answer['mean'])}{half}".replace("-", "−")


def _notes(section: Section) -> list[str]:
    counts = ", ".join(f"{label} {count}" for label, count in section["encoders"].items())
    return [
        f"Accuracies, overlaps and their standard deviations in %, the rest as it is; docs/probes.md says how each is "
        f"asked. Mean over seeds, ± half of the 95 % t interval. Seeds: {counts}."
    ]
