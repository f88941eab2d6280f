"""The tables of a results folder: what each shows, and all of them as files."""

from collections.abc import Callable
from pathlib import Path

from maskbench.analysis import across_datasets, epochs_to_baseline, probe_table, test_set_uncertainty, tuning_table
from maskbench.analysis.comparison import BASELINE, METRICS, comparison, heading
from maskbench.analysis.results import Results
from maskbench.analysis.table_formats import FORMATS, Column, Columns, Row, Section, signed
from maskbench.runtime.atomic_files import write_atomically


def columns_of(section: Section) -> list[Column]:
    """Of the comparison."""
    columns = [Column("n", lambda row: str(row["n"]))]
    columns += [Column(heading(metric), _accuracy(metric), metric == section["metric"]) for metric in METRICS]
    return [
        *columns,
        Column(f"Δ {section['baseline']}", _difference),
        Column("p", _p),
        Column("group", lambda row: row.get("letters")),
        _cost("images/s", "cost/images_per_s", "{:.0f}"),
        _cost("mask share", "cost/mask_share", "{:.1f} %", 100),
        _cost("MiB", "cost/peak_memory_mib", "{:.0f}"),
        _cost("GFLOPs/image", "cost/gflops_per_image", "{:.3f}"),
        _cost("realised ratio", "realised_ratio_mean", "{:.3f}"),
        *_lengths(section),
        Column("tuned", lambda row: row.get("tuned"), cost=True),
        _cost("tuning s", "cost/tuning_s", "{:.0f}"),
    ]


def _lengths(section: Section) -> list[Column]:
    if not section["budget"]:
        return []
    return [
        _cost("epochs", "epochs", "{:.0f}"),
        _cost("train s", "cost/train_s", "{:.0f}"),
        _cost("train TFLOPs", "cost/train_tflops", "{:.1f}"),
    ]


def _accuracy(metric: str) -> Callable[[Row], str | None]:
    def cell(row: Row) -> str | None:
        if metric not in row:
            return None
        value = row[metric]
        half = "" if value["low"] is None else f" ± {100 * (value['high'] - value['low']) / 2:.1f}"
        return f"{100 * value['mean']:.1f}{half}"

    return cell


def _difference(row: Row) -> str | None:
    if "difference" not in row:
        return None
    found = row["difference"]
    interval = "" if found["low"] is None else f" [{signed(found['low'])}, {signed(found['high'])}]"
    return f"{signed(found['mean'])}{interval}"


def _p(row: Row) -> str | None:
    p = row.get("difference", {}).get("p_holm")
    return None if p is None else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _cost(heading: str, name: str, form: str, scale: float = 1) -> Column:
    return Column(heading, lambda row: form.format(scale * row[name]["mean"]) if name in row else None, cost=True)


def write_tables(results: Results, folder: Path, baseline: str = BASELINE) -> dict[str, str]:
    """Every table that there is something to say in, in every format, to `folder`/<table>.<format>; the texts of the
    comparison by format. Tables of before that say nothing any more are removed."""
    sections = comparison(results.frame, baseline, results.trials)
    views: dict[str, tuple[list[Section], Columns]] = {
        "comparison": (sections, columns_of),
        "across-data": (across_datasets.sections(results, baseline), across_datasets.columns_of),
        "epochs-to-baseline": (epochs_to_baseline.sections(results, baseline), epochs_to_baseline.columns_of),
        "test-sample": (test_set_uncertainty.sections(results, baseline), test_set_uncertainty.columns_of),
        "tuning": (tuning_table.sections(results), tuning_table.columns_of),
        "probes": (probe_table.sections(results), probe_table.columns_of),
    }
    folder.mkdir(parents=True, exist_ok=True)
    for name, (shown, columns) in views.items():
        for kind, render in FORMATS.items():
            path = folder / f"{name}.{kind}"
            if shown or name == "comparison":
                write_atomically(path, render(shown, columns))
            else:
                path.unlink(missing_ok=True)
    return {kind: render(sections, columns_of) for kind, render in FORMATS.items()}
