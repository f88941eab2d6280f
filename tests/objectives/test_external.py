"""Encoders from elsewhere: asked the same, beside runs of ours, and marked."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from maskbench.analysis import probe_table
from maskbench.analysis.comparison import compare_strategies
from maskbench.analysis.report import render_page
from maskbench.analysis.results import read_results
from maskbench.cli.pretrained_settings import external_settings
from maskbench.config.resolve import parse_config
from maskbench.errors import UsageError
from maskbench.models.encoder_sources import read_encoder
from maskbench.record import RunRecord
from maskbench.runs.plan import make_plan
from maskbench.runs.run import run
from tests.helpers.command_line import maskbench
from tests.helpers.records import record as made_up
from tests.helpers.records import write_records
from tests.helpers.tiny_run import tiny_config


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> tuple[RunRecord, Path]:
    config = tiny_config(tmp_path_factory.mktemp("ours") / "out", "random")
    return run(config), make_plan(config).folder


FLAGS = ("--dataset", "shapes", "--limit", "300", "--precision", "fp32", "--device", "cpu")


def test_the_same_encoder_gives_the_same_answers_in_the_same_table(ours: tuple[RunRecord, Path]) -> None:
    record, folder = ours
    output = folder.parent.parent
    done = maskbench("probe", str(folder), *FLAGS, "--output", str(output), cwd=output)
    assert done.code == 0, done.err
    results = read_results(output)
    (external,) = [each for each in results.records if each.objective["name"] == "external"]
    for name in ("knn/top1/cls", "knn/top1/mean", "linear/top1/cls", "linear/top1/mean"):
        assert external.metrics[name] == record.metrics[name]
    assert external.dataset["mean"] == pytest.approx(record.dataset["mean"]), "normalised as it was trained"
    (section,) = compare_strategies(results.frame)
    assert [row.label for row in section.rows] == ["random", f"{record.run_id} (external)"]
    assert section.rows[1].difference is None and "encoders from elsewhere" in " ".join(section.notes)
    assert f"{record.run_id} (external)" in done.out
    files = {path.name for path in (output / "runs" / external.run_id).iterdir()}
    assert files == {"record.json", "config.yaml", "predictions.npz"}, "the encoder stays where it is"
    assert f"{record.run_id} (external)" in render_page(results)


def test_a_run_is_known_by_the_weights_wherever_they_lie(ours: tuple[RunRecord, Path], tmp_path: Path) -> None:
    _, folder = ours
    shutil.copytree(folder, tmp_path / folder.name)
    ids = []
    for source in (folder, tmp_path / folder.name):
        settings = external_settings(read_encoder(str(source)), str(source), None, None)
        flat = parse_config(_nested({**settings, "output": str(tmp_path / "out")}))
        ids.append(make_plan(flat).run_id)
    assert ids[0] == ids[1]
    weights = load_file(tmp_path / folder.name / "encoder.safetensors")
    weights["cls_token"] += 1
    save_file(weights, tmp_path / folder.name / "encoder.safetensors")
    with pytest.raises(UsageError, match="has changed since"):
        run(flat)
    other = external_settings(read_encoder(str(tmp_path / folder.name)), "x", None, None)
    assert make_plan(parse_config(_nested({**other, "output": "out"}))).run_id != ids[0]


def _nested(settings: dict) -> dict:  # type: ignore[type-arg]
    from maskbench.config.resolve import merge

    return merge({}, settings)


def test_a_checkpoint_of_dino_at_another_size(tmp_path: Path) -> None:
    """Teacher and student with heads, 16 px of 4: probed at 24 px with ImageNet's moments."""
    from timm import create_model

    torch.manual_seed(0)
    kwargs = {"img_size": 16, "patch_size": 4, "embed_dim": 64, "depth": 2, "num_heads": 1, "num_classes": 0}
    state = create_model("vit_tiny_patch16_224", **kwargs).state_dict()
    head = {"head.mlp.0.weight": torch.zeros(2, 64)}
    student = {f"module.backbone.{name}": torch.zeros_like(value) for name, value in state.items()}
    teacher = {f"backbone.{name}": value for name, value in state.items()}
    torch.save({"student": student | head, "teacher": teacher | head, "epoch": 3}, tmp_path / "dino.pth")
    done = maskbench(
        "probe", "dino.pth", *FLAGS, "--img-size", "24", "--output", "out", "--probes", "knn,features", "--json",
        cwd=tmp_path,
    )  # fmt: skip
    assert done.code == 0, done.err
    (record,) = json.loads(done.out)
    assert record["config"]["data"]["img_size"] == [24, 24] and record["config"]["data"]["mean"][0] == 0.485
    assert record["metrics"]["knn/top1/mean"] > 0.13, "ten classes; chance has a sd of 0.7 points"
    assert record["metrics"]["features/rank/cls"] > 1
    table = (tmp_path / "out" / "tables" / "probes.md").read_text()
    assert "dino (external)" in table and "features attention-iou cls" in table
    again = maskbench("probe", "dino.pth", *FLAGS, "--img-size", "24", "--output", "out", "--probes", "knn,features",
                      cwd=tmp_path)  # fmt: skip
    assert again.code == 0 and "is done already" in again.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("nowhere.pth",), "no file or folder nowhere.pth"),
        (("vit_smal_patch16_224",), "no folder, file or timm model 'vit_smal_patch16_224'. Did you mean"),
        (("SELF", "--probes", "knnn"), "Did you mean knn"),
        (("SELF", "--heads", "5"), "5 heads do not divide"),
        (("SELF", "--img-size", "18"), "does not divide into patches"),
    ],
)
def test_mistakes_are_one_line(
    ours: tuple[RunRecord, Path], tmp_path: Path, arguments: tuple[str, ...], message: str
) -> None:
    words = [str(ours[1]) if word == "SELF" else word for word in arguments]
    done = maskbench("probe", *words, *FLAGS, cwd=tmp_path)
    assert done.code == 2 and message in done.err and done.err.strip().count("\n") == 0
    assert not (tmp_path / "results").exists()


def external(name: str, accuracy: float, **metrics: float) -> RunRecord:
    made = made_up("random-init", 0, accuracy, run_id=f"none-{name}-s0")
    parameters = {"label": name, "digest": name * 8, "source": f"{name}.pth"}
    config = {**made.config, "objective": {"name": "external", "parameters": parameters}}
    objective = {"name": "external", "version": 1, "parameters": parameters}
    return made.model_copy(update={"objective": objective, "config": config, "metrics": made.metrics | metrics})


def test_external_rows_join_every_group_that_was_asked_the_same(tmp_path: Path) -> None:
    longer = {"train.epochs": 99}
    runs = [made_up(name, seed, 0.5 + seed / 100, settings=settings, run_id=f"{name}-{len(settings)}-s{seed}")
            for name in ("random", "gmml") for seed in range(3) for settings in ({}, longer)]  # fmt: skip
    write_records(tmp_path, *runs, external("dino", 0.9))
    results = read_results(tmp_path)
    sections = compare_strategies(results.frame)
    assert [[row.label for row in section.rows] for section in sections] == [["gmml", "random", "dino (external)"]] * 2
    assert all(row.unfinished["missing"] == 0 for section in sections for row in section.rows)
    assert probe_table.make_sections(results) == [], "k-NN and linear alone are in the comparison"
    assert "dino (external)" in render_page(results)


def test_external_rows_alone_have_a_table_of_their_own(tmp_path: Path) -> None:
    write_records(tmp_path, external("dino", 0.9), external("mae", 0.8))
    (section,) = compare_strategies(read_results(tmp_path).frame)
    assert [row.label for row in section.rows] == ["dino (external)", "mae (external)"]
    assert "encoders from elsewhere" in section.group


def test_the_table_of_probes(tmp_path: Path) -> None:
    """Questions down, encoders across; mean and interval by hand."""
    runs = []
    for seed, share in enumerate((0.2, 0.3, 0.4)):
        for name in ("random", "random-init"):
            made = made_up(name, seed, 0.5)
            more = {"lowshot-1/top1/cls": share, "features/rank/mean": 10 * share, "lowshot-1/top1/mean": 0.1}
            runs.append(made.model_copy(update={"metrics": made.metrics | more}))
    write_records(tmp_path, *runs)
    (section,) = probe_table.make_sections(read_results(tmp_path))
    assert list(section.encoders) == ["random-init", "random"]
    labels = [row.label for row in section.rows]
    assert labels[-3:] == ["lowshot-1 top1 cls", "lowshot-1 top1 mean", "features rank mean"]
    cells = dict(zip(labels, section.columns()[1].cells, strict=True))
    half = 4.302653 * 0.1 / 3**0.5  # t of 2 degrees of freedom, sd 0.1
    assert cells["lowshot-1 top1 cls"] == f"30.0 ± {100 * half:.1f}"
    assert cells["features rank mean"] == f"3.00 ± {10 * half:.2f}"


def changed(made: RunRecord, **config: object) -> RunRecord:
    return made.model_copy(update={"config": {**made.config, **config}})


def test_external_rows_of_other_settings_are_other_rows(tmp_path: Path) -> None:
    """Another normalisation is another question; more seeds of an encoder from elsewhere take none from ours."""
    one = external("dino", 0.9)
    shifted = {**one.config["data"], "mean": [0.0, 0.0, 0.0], "std": [1.0, 1.0, 1.0]}
    other = changed(one, data=shifted)
    seeds = [(seed, changed(other, seed=seed)) for seed in range(3)]
    two = [each.model_copy(update={"seed": seed, "run_id": f"none-b-s{seed}"}) for seed, each in seeds]
    write_records(tmp_path, made_up("random", run_id="random-a-s0"), one, *two)
    (section,) = compare_strategies(read_results(tmp_path).frame)
    assert sorted((row.n, row.unfinished["missing"]) for row in section.rows) == [(1, 0), (1, 0), (3, 0)]
    assert len({row.label for row in section.rows}) == 3


def test_external_rows_do_not_join_what_was_asked_otherwise(tmp_path: Path) -> None:
    other = changed(external("dino", 0.9), probes=[{"name": "knn", "parameters": {"k": 5}}])
    write_records(tmp_path, made_up("random", run_id="random-a-s0"), other)
    assert len(compare_strategies(read_results(tmp_path).frame)) == 2


def test_external_rows_join_what_was_probed_on_their_data(tmp_path: Path) -> None:
    there = made_up().dataset
    photos = {"name": "photos", "fingerprint": "p", "sizes": {"train": 99, "validation": 9, "test": 0}, "probed": there}
    write_records(tmp_path, made_up("random", run_id="random-a-s0", dataset=photos), external("dino", 0.9))
    (section,) = compare_strategies(read_results(tmp_path).frame)
    assert [row.label for row in section.rows] == ["random", "dino (external)"]
