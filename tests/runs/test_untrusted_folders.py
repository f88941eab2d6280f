"""A run in a results folder where somebody else may have left files: records, links, pipes, tickets."""

import json
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import pytest

from maskbench.errors import UsageError
from maskbench.probe import REGISTRY, Probe, ProbeResult, Subject, register
from maskbench.record import read_record_of_run
from maskbench.runs import live_status
from maskbench.runs.live_status import PROGRESS, TICKET, StatusReporter, Ticket, issue_tickets
from maskbench.runs.moved_data import find_moved_data
from maskbench.runs.plan import make_plan
from maskbench.runs.reporter import Reporter
from maskbench.runs.run import run
from maskbench.runs.status import read_status
from tests.helpers.command_line import maskbench
from tests.helpers.records import record, write_records
from tests.helpers.tiny_run import tiny_config


def test_another_runs_record_does_not_make_a_run_done(tmp_path: Path) -> None:
    config = tiny_config(tmp_path, probes="knn")
    folder = make_plan(config).folder
    other = record("random", run_id="random-0-s0")
    folder.mkdir(parents=True)
    other.write(folder / "record.json")
    with pytest.raises(UsageError, match="it is of the run random-0-s0, .* repeat the run with --force"):
        run(config)
    assert read_status(folder).state == "failed"
    assert run(config, force=True) == read_record_of_run(folder)


@pytest.mark.parametrize("place", ["runs", "run", "trials"])
def test_a_linked_folder_is_refused_before_anything_is_written(tmp_path: Path, place: str) -> None:
    (tmp_path / "elsewhere").mkdir()
    changes = {}
    output = tmp_path / "out"
    if place == "trials":
        tuning = {"row": "random", "settings": {}, "trials": 1, "seeds": [0], "trial": True}
        changes, output = {"tuning": tuning}, tmp_path / "out" / "trials"
    config = tiny_config(output, probes="knn", **changes)
    folder = make_plan(config).folder
    link = {"runs": folder.parent, "run": folder, "trials": folder.parent.parent}[place]
    link.parent.mkdir(parents=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{link} is a link, and nothing is written through it"):
        run(config)
    if place != "trials":
        with pytest.raises(UsageError, match=f"{link} is a link"), issue_tickets([make_plan(config)], "local"):
            pass
    assert not any((tmp_path / "elsewhere").iterdir())


def test_a_run_writes_through_no_link_and_keeps_what_a_probe_can_say(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_registry: None
) -> None:
    """Links stand where each of its files will be; a probe of the user's own returns numbers that no record holds."""

    @register("odd")
    @dataclass(frozen=True, kw_only=True)
    class Odd(Probe):
        """Returns what it must not."""

        def __call__(self, subject: Subject) -> ProbeResult:
            return ProbeResult({"odd/loss": float("nan"), "odd/top1/mean": 52.0, "odd/good": 1.5})

    assert "odd" in REGISTRY.names()
    monkeypatch.setattr(live_status, "EVERY_S", 0.0)
    config = tiny_config(tmp_path / "out", probes="knn,odd")
    folder = make_plan(config).folder
    folder.mkdir(parents=True)
    (tmp_path / "theirs").write_text("theirs")
    names = ["config.yaml", "metrics.csv", "encoder.safetensors", "predictions.npz", "masks.png", PROGRESS, TICKET]
    for name in names:
        (folder / name).symlink_to(tmp_path / "theirs")
    said: list[str] = []

    class Listener(Reporter):
        def note(self, text: str) -> None:
            said.append(text)

    with issue_tickets([make_plan(config)], "local"):
        assert Ticket.read(folder) is not None
        made = run(config, reporter=StatusReporter(Listener()))
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert not any((folder / name).is_symlink() for name in names)
    assert read_record_of_run(folder) == made and made.status == "complete"
    assert made.metrics["odd/good"] == 1.5 and not {"odd/loss", "odd/top1/mean"} & made.metrics.keys()
    for warning in ("odd/loss is nan and left out", "odd/top1/mean is 52.0 and left out"):
        assert any(line.startswith(warning) for line in made.warnings)
        assert any(warning in line for line in said)


BAD_STATUS = ["{", "[]", "null", "[" * 100_000, '{"on": 1}', '{"on": "local", "pid": -1}', '{"phase": "\\u001b[2J"}',
              '{"on": "local", "pid": 99999999999999999999}',
              '{"phase": "training", "step": 1e999, "steps": 2, "left_s": 1}',
              '{"phase": "training", "step": 1, "steps": 2, "left_s": -1}', "9" * 20_000]  # fmt: skip


@pytest.mark.parametrize("text", BAD_STATUS, ids=[text[:40] for text in BAD_STATUS])
def test_a_live_status_that_is_none_is_named_and_left_out(
    tmp_path: Path, text: str, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "runs" / "random-0-s0"
    folder.mkdir(parents=True)
    (folder / TICKET).write_text(text)
    assert read_status(folder).state == "interrupted" and Ticket.read(folder) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"maskbench: skipped {folder / TICKET}: ") and len(line) < len(str(folder)) + 400
    (folder / TICKET).unlink()
    os.mkfifo(folder / TICKET)
    (folder / PROGRESS).write_text(text)
    done = maskbench("status", str(tmp_path), cwd=tmp_path)
    assert done.code == 0 and f"{TICKET}: it is a pipe, no regular file" in done.err and "1 interrupted" in done.out


def test_progress_of_a_held_run_is_named_and_left_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from maskbench.runs.lease import hold_lease

    folder = tmp_path / "runs" / "random-0-s0"
    folder.mkdir(parents=True)
    for text in BAD_STATUS:
        with hold_lease(folder, waiting=None):
            (folder / PROGRESS).write_text(text)
            found = read_status(folder)
        assert (found.state, found.step, found.note) == ("running", None, "")
        assert f"skipped {folder / PROGRESS}: " in capsys.readouterr().err


def test_commands_in_messages_can_be_pasted_into_a_shell(tmp_path: Path) -> None:
    for command in ("table", "plot", "report"):
        done = maskbench(command, "my results; touch x", cwd=tmp_path)
        assert done.code == 2 and "maskbench run --output 'my results; touch x'" in done.err
    stored = record("my-mask", run_id="my-mask-0-s0")
    stored.strategy["distribution"] = "my mask$(touch x).py sha256:0123abcd"
    folder = write_records(tmp_path / "out", stored) / "runs" / stored.run_id
    done = maskbench("rerun", str(folder), cwd=tmp_path)
    assert done.code == 2 and "--plugin 'my mask$(touch x).py'" in done.err


def test_a_record_alone_is_repeated_from_anywhere(tmp_path: Path) -> None:
    """Its folder's name says nothing where one file is named: no table is made of it."""
    stored = record("gmml", run_id="gmml-0-s0")
    write_records(tmp_path, stored)
    shutil.copy(tmp_path / "runs" / "gmml-0-s0" / "record.json", tmp_path / "mailed.json")
    done = maskbench("show", "./mailed.json", "--output", "a.png", cwd=tmp_path)
    assert done.code == 0 and (tmp_path / "a.png").is_file(), done.err
    content = json.loads((tmp_path / "mailed.json").read_text())
    (tmp_path / "mailed.json").write_text(json.dumps({**content, "seed": 5}))
    assert maskbench("show", "./mailed.json", "--output", "b.png", cwd=tmp_path).code == 2


@pytest.mark.parametrize("name", ["./" + "a" * 300, "./" + "a/" * 2000])
def test_a_recorded_path_that_no_file_can_have_is_one_line(tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="the record's data in ./a.* are not found"):
        find_moved_data(tmp_path / "my record.json", {"dataset": name}, {})
    with pytest.raises(UsageError, match="type: maskbench rerun '.*my record.json' --dataset PATH"):
        find_moved_data(tmp_path / "my record.json", {"dataset": name}, {})
