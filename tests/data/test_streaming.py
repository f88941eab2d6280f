"""Streamed data: the same numbers as packed, in any process, from any step; and what goes wrong with them."""

import io
import json
import os
import resource
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from maskbench import data
from maskbench.config.settings import RunConfig
from maskbench.data.prefetch import prefetch
from maskbench.data.splits import Images, Splits
from maskbench.data.streaming import StreamedImages
from maskbench.errors import Failure, UsageError
from maskbench.runs.plan import make_plan
from maskbench.runs.run import run
from maskbench.runtime.interrupt import Interrupted
from maskbench.training.data_order import epoch_order, remaining_indices
from tests.helpers.command_line import wait_for_words
from tests.helpers.image_files import CLASSES, picture, png, write_folders, write_parquet
from tests.helpers.real_data import DATA
from tests.helpers.reporters import StoppingReporter
from tests.helpers.run_results import comparable_record
from tests.helpers.tiny_run import tiny_config

ONE_LAYER = {"embed_dim": 32, "depth": 1, "num_heads": 2}


@pytest.fixture(autouse=True)
def _fresh_memory() -> Iterator[None]:
    data.load_dataset.cache_clear()
    yield
    data.load_dataset.cache_clear()


def folders(root: Path) -> None:
    write_folders(root, "train", 0, 40, rows=40, cols=30)
    write_folders(root, "train", 40, 40, rows=36, cols=36)
    write_folders(root, "test", 100, 20, rows=20, cols=36)


def parquet(root: Path) -> None:
    write_parquet(root / "train-0.parquet", 0, 50)
    write_parquet(root / "train-1.parquet", 50, 30)
    write_parquet(root / "test-0.parquet", 100, 20)


def shards(root: Path) -> None:
    """As webdataset writes them, but for a directory and a file that is no part of a sample."""
    root.mkdir()
    for name, first, count in (("a-train-000", 0, 50), ("a-train-001", 50, 30), ("a-test-000", 100, 20)):
        with tarfile.open(root / f"{name}.tar", "w") as tar:
            tar.add(root, "things", recursive=False)
            for number in range(first, first + count):
                members = {"PNG": png(number), "cls": str(number % 3).encode(), "txt": b"a thing"}
                if number % 2:
                    members["json"] = json.dumps({"label": int(members.pop("cls"))}).encode()
                for suffix, content in members.items():
                    member = tarfile.TarInfo(f"things/{number:04}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    (root / "classnames.txt").write_text("\n".join(CLASSES))


def hub(root: Path) -> None:
    """Train in bytes, test in files that are only named."""
    datasets = pytest.importorskip("datasets")
    features = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=CLASSES)})
    for split, rows in (("train", range(80)), ("test", range(100, 120))):
        images: list[Any] = [{"bytes": png(number), "path": None} for number in rows]
        if split == "test":
            write_folders(root / "files", split, 100, 20)
            images = [{"bytes": None, "path": str(path)} for path in sorted((root / "files").rglob("*.png"))]
        columns = {"image": images, "label": [number % 3 for number in rows]}
        table = pyarrow.Table.from_pydict(columns, features.arrow_schema)
        (root / "data").mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(table, root / "data" / f"{split}.parquet")


SOURCES = {"folders": folders, "parquet": parquet, "wds": shards, "hfds": hub}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A data set of 80 training and 20 test images, by its name."""
    SOURCES[request.param](tmp_path / "data")
    place = {"hfds": f"hfds/{tmp_path}/data/data", "wds": f"wds/{tmp_path}/data"}
    return place.get(request.param, str(tmp_path / "data"))


def config(folder: Path, dataset: str, memory_gib: float = 0, workers: int = 0, **changes: Any) -> RunConfig:
    """Ten steps of training, five an epoch."""
    settings = {"data__limit": None, "train__batch_size": 16, "model__kwargs": ONE_LAYER, "probes": "knn"}
    settings |= {"data__dataset": dataset, "data__memory_gib": memory_gib, "system__workers": workers}
    return tiny_config(folder, **{**settings, **changes})


def both(dataset: str, limit: int | None = None, cache: Path | None = None) -> tuple[Splits, Splits]:
    packed, streamed = (data.load_dataset(dataset, (16, 16), 3, limit, str(cache or ""), gib) for gib in (4, 0))
    return packed, streamed


def same(one: Images, two: Images) -> bool:
    pairs = ((getattr(one, name), getattr(two, name)) for name in ("pixels", "labels", "stretch"))
    return all(torch.equal(ours, theirs) for ours, theirs in pairs)


@pytest.mark.parametrize("limit", [None, 30])
def test_the_same_data_set_to_the_bit(source: str, limit: int | None, tmp_path: Path) -> None:
    packed, streamed = both(source, limit, tmp_path / "cache")
    assert isinstance(packed.train, Images) and isinstance(streamed.train, StreamedImages)
    assert streamed.fingerprint == packed.fingerprint and streamed.sizes == packed.sizes
    assert torch.equal(streamed.mean, packed.mean) and torch.equal(streamed.std, packed.std)
    for name in ("train", "test"):
        ours, theirs = getattr(streamed, name), getattr(packed, name)
        index = torch.randperm(len(ours), generator=torch.Generator().manual_seed(0))
        assert same(ours.take(index), theirs.take(index))
        assert same(ours.subset(index[5:]).subset(index[index < len(index) - 5]).take(torch.tensor([3, 1])),
                    theirs.take(index[5:]).take(index[index < len(index) - 5]).take(torch.tensor([3, 1])))  # fmt: skip


@pytest.mark.parametrize("source", ["folders"], indirect=True)
def test_the_same_run_to_the_last_digit(source: str, tmp_path: Path) -> None:
    """Losses, realised ratios, online readings and probes; so crops and masks too."""
    packed = run(config(tmp_path / "packed", source, 4))
    streamed = run(config(tmp_path / "streamed", source))
    assert streamed.dataset.pop("streamed") and "streamed" not in packed.dataset
    ignored = {"config": None, "environment": None}
    assert comparable_record(streamed) | ignored == comparable_record(packed) | ignored
    assert streamed.run_id == packed.run_id, "how images are read is no part of what a run is"
    folders = [tmp_path / name / "runs" / packed.run_id for name in ("packed", "streamed")]
    for name in ("masks.png", "predictions.npz"):
        assert (folders[0] / name).read_bytes() == (folders[1] / name).read_bytes()
    one, two = (load_file(folder / "encoder.safetensors") for folder in folders)
    assert all(torch.equal(one[name], two[name]) for name in one.keys() | two.keys())


def test_as_many_processes_as_one_likes(tmp_path: Path) -> None:
    """In pieces, whose number does not divide that of the images, and more batches than there are slots."""
    folders(tmp_path)
    packed, streamed = (splits.train for splits in both(str(tmp_path)))
    generator = torch.Generator().manual_seed(0)
    batches = [torch.randperm(80, generator=generator)[:size] for size in [11] * 30 + [7]]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("maskbench.data.prefetch.CHUNK_BYTES", 4 * 32 * 32 * 3)
        for workers in (0, 2):
            with prefetch(streamed, batches, workers) as prepared:
                assert all(same(prepared.take(index), packed.take(index)) for index in batches)


def test_what_is_announced_is_what_is_asked_for(tmp_path: Path) -> None:
    labels, settings = torch.zeros(70), tiny_config(tmp_path, train__batch_size=16, train__epochs=3)
    whole = [epoch_order(0, epoch, labels)[place : place + 16] for epoch in range(3) for place in range(0, 64, 16)]
    for step in (0, 3, 4, 9, 12):
        announced = list(remaining_indices(settings, labels, step))
        assert len(announced) == 12 - step
        assert all(torch.equal(ours, theirs) for ours, theirs in zip(announced, whole[step:], strict=True))
    other = next(remaining_indices(settings.model_copy(update={"seed": 1}), labels, 0))
    assert not torch.equal(other, whole[0]) and not torch.equal(whole[0], whole[4]), "by seed, and by epoch"


def test_a_crash_anywhere_changes_no_number(tmp_path: Path) -> None:
    folders(tmp_path / "data")
    whole = run(config(tmp_path / "whole", str(tmp_path / "data"), probes="knn"))
    again = partial(config, tmp_path / "crashed", str(tmp_path / "data"), probes="knn")
    for step, workers in ((2, 1), (7, 0)):  # within the first epoch, and within the second
        with pytest.raises(Interrupted):
            run(again(workers=workers), reporter=StoppingReporter(step), checkpoint_every=0)
    ignored = {"config": None, "environment": None}
    resumed = run(again(), checkpoint_every=0)
    assert comparable_record(resumed) | ignored == comparable_record(whole) | ignored and resumed.interruptions == 2


def test_streamed_where_packed_is_too_large(tmp_path: Path) -> None:
    folders(tmp_path)
    size = 100 * 32 * 32 * 3 / 2**30
    for memory_gib, kind in ((size * 0.99, StreamedImages), (size, Images)):
        assert isinstance(data.load_dataset(str(tmp_path), (16, 16), 3, None, None, memory_gib).train, kind)


def test_listed_once_and_again_when_files_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path)
    first = data.load_dataset(str(tmp_path), (12, 12), 3, None, None, 0)
    data.load_dataset.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("maskbench.data.load.prepare_images", lambda *_: pytest.fail("prepared again"))
        again = data.load_dataset(str(tmp_path), (12, 12), 3, None, None, 0)
    assert same(first.train.take(torch.arange(9)), again.train.take(torch.arange(9)))
    data.load_dataset.cache_clear()
    assert isinstance(again.train, StreamedImages)
    Path(again.train.encoded.files[0]).unlink()  # by somebody who tidies up the cache
    with pytest.warns(UserWarning, match="preparing the data again"):
        third = data.load_dataset(str(tmp_path), (12, 12), 3, None, None, 0)
    assert same(first.train.take(torch.arange(9)), third.train.take(torch.arange(9)))


def test_the_images_of_a_limit_are_decoded_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """For their mean and standard deviation, which are theirs alone."""
    parquet(tmp_path)
    first, other = (data.load_dataset(str(tmp_path), (12, 12), 3, limit, None, 0) for limit in (30, 31))
    packed = data.load_dataset(str(tmp_path), (12, 12), 3, 30)
    data.load_dataset.cache_clear()
    with monkeypatch.context() as patch:
        patch.setattr("maskbench.data.encoded_images.EncodedImages.decode", lambda *_: pytest.fail("decoded again"))
        again = data.load_dataset(str(tmp_path), (12, 12), 3, 30, None, 0)
    assert torch.equal(again.mean, packed.mean) and torch.equal(again.std, packed.std)
    assert not torch.equal(again.mean, other.mean) and again.sizes == packed.sizes
    assert again.fingerprint == packed.fingerprint and again.classes == packed.classes
    assert same(again.train.take(torch.arange(30)), first.train.take(torch.arange(30)))
    assert same(again.train.take(torch.arange(30)), packed.train.take(torch.arange(30)))


def test_nothing_is_left_of_parquet_that_is_packed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet(tmp_path / "data")
    monkeypatch.setenv("MASKBENCH_CACHE", str(tmp_path / "cache"))
    data.load_dataset(str(tmp_path / "data"), (12, 12), 3)
    assert not list((tmp_path / "cache").rglob("*.encoded"))
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("MASKBENCH_CACHE", str(tmp_path / "file"))
    with pytest.raises(UsageError, match="from where images would be streamed; set MASKBENCH_CACHE"):
        data.load_dataset(str(tmp_path / "data"), (12, 12), 3, None, None, 0)


def test_large_jpegs_are_decoded_at_a_fraction_of_their_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Which moves them by less than one level of 255 on average."""
    for split, count in (("train", 12), ("test", 3)):
        for number in range(count):
            path = tmp_path / split / "ab"[number % 2] / f"{number}.jpg"
            path.parent.mkdir(parents=True, exist_ok=True)
            small = picture(number, 24, 32).resize((640, 480), Image.Resampling.BICUBIC)
            small.save(path, quality=90)
    decoded = data.load_dataset(str(tmp_path), (32, 32), 3).train.take(torch.arange(12)).pixels
    monkeypatch.setattr("maskbench.data.encoded_images.REDUCING_GAP", 100.0)
    data.load_dataset.cache_clear()
    whole = data.load_dataset(str(tmp_path), (32, 32), 3, None, None, 0).train.take(torch.arange(12)).pixels
    difference = (decoded.double() - whole.double()).abs().mean()
    assert 0 < difference < 1


def test_a_broken_image_is_named_before_anything_is_trained(tmp_path: Path) -> None:
    folders(tmp_path / "data")
    path = tmp_path / "data" / "test" / "dog" / "0100.png"
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(UsageError, match="cannot decode test/dog/0100.png") as caught:
        run(config(tmp_path / "out", str(tmp_path / "data")))
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


@pytest.fixture
def prepared(tmp_path: Path) -> Any:
    """A streamed training split, and one process that has just begun to prepare batches of it, more than there is room
    for."""
    folders(tmp_path)
    _, streamed = both(str(tmp_path))
    index = torch.arange(8)
    return streamed.train, [index] * 200


def test_an_image_that_vanishes_is_named(prepared: Any) -> None:
    split, batches = prepared
    Path(split.encoded.files[3]).unlink()
    with (
        pytest.raises(Failure, match="cannot read train/cat/0009.png in .*: No such file or directory; bring it back"),
        prefetch(split, batches, 1) as train,
    ):
        train.take(batches[0])


@pytest.mark.parametrize(
    ("deadly", "message"),
    [(signal.SIGKILL, "died, perhaps because memory ran out; .* --workers 0"), (signal.SIGBUS, "enlarge /dev/shm .*")],
)
def test_a_process_that_dies_is_one_line(prepared: Any, deadly: signal.Signals, message: str) -> None:
    (split, batches), taken = prepared, 0
    with pytest.raises(Failure, match=message) as caught:  # noqa: SIM117
        with prefetch(split, batches, 1) as train:
            train.take(batches[0])
            (worker,) = train.processes
            os.kill(worker.pid, signal.SIGINT)  # what a terminal sends to all processes does not disturb it
            os.kill(worker.pid, signal.SIGTERM)
            for taken, index in enumerate(batches[1:]):
                train.take(index)
                if taken == 100:
                    os.kill(worker.pid, deadly)
    assert "\n" not in str(caught.value) and taken >= 100


def test_a_pool_can_end_what_hears_no_sigterm(tmp_path: Path) -> None:
    """By `terminate`, as it does with the others when one has died; from Python 3.12 it then waits for them. Meanwhile
    nobody asks for a batch."""
    folders(tmp_path)
    (_, streamed), index = both(str(tmp_path)), torch.arange(8)
    with pytest.raises(Failure, match="died, perhaps because memory ran out"):  # noqa: SIM117
        with prefetch(streamed.train, [index] * 400, 2) as train:
            for _ in range(100):
                train.take(index)
            train.processes[0].terminate()
            time.sleep(0.5)
            for _ in range(200):
                train.take(index)
    assert all(process.exitcode is not None for process in train.processes)


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_no_process_outlives_the_one_that_started_it(tmp_path: Path) -> None:
    folders(tmp_path)
    script = (
        "import sys, time, torch; from maskbench import data; from maskbench.data.prefetch import prefetch\n"
        "if __name__ == '__main__':\n"
        "    index = torch.arange(8)\n"
        "    splits = data.load_dataset(sys.argv[1], (16, 16), 3, None, '', 0)\n"
        "    with prefetch(splits.train, [index] * 200, 2) as train:\n"
        "        train.take(index); print(*(each.pid for each in train.processes), flush=True); time.sleep(100)\n"
    )
    with subprocess.Popen([sys.executable, "-c", script, str(tmp_path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        decoding = [int(pid) for pid in process.stdout.readline().split()]
        alive = [pid for pid in decoding if b"spawn_main" in cmdline(pid)]
        process.kill()
    end = time.monotonic() + 20
    while any(b"spawn_main" in cmdline(pid) for pid in decoding) and time.monotonic() < end:
        time.sleep(0.05)
    assert len(alive) == 2 and not [pid for pid in decoding if b"spawn_main" in cmdline(pid)]


def test_what_shards_hold(tmp_path: Path) -> None:
    shards(tmp_path / "data")
    splits = data.load_dataset("wds/data", (12, 12), 3, None, str(tmp_path), 0)
    assert splits.name == "data" and splits.classes == tuple(CLASSES)
    assert splits.train.labels.tolist() == [number % 3 for number in range(80)]
    assert (splits.train.take(torch.tensor([77])).pixels[0].permute(1, 2, 0).numpy() == np.asarray(picture(77))).all()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda root: (root / "a-test-000.tar").write_bytes(b"no tar" * 200), "cannot read .*a-test-000.tar: .*"),
        (lambda root: (root / "a-test-000.tar").unlink(), "no test split in .*: expected"),
        (
            lambda root: [file.unlink() for file in root.glob("*train*")],
            "no training split in .*: expected shards such",
        ),
        (lambda root: (root / "classnames.txt").write_text("cat"), "names 1 classes, but there are labels up to 2"),
        (
            lambda root: [file.rename(file.with_suffix(".x")) for file in root.iterdir()],
            "no training split in .*shards",
        ),
    ],
    ids=["no tar", "no test", "no train", "names", "nothing"],
)
def test_bad_shards_are_one_line(tmp_path: Path, spoil: Any, message: str) -> None:
    shards(tmp_path / "data")
    spoil(tmp_path / "data")
    with pytest.raises(UsageError, match=message) as caught:
        data.load_dataset("wds/data", (12, 12), 3, None, str(tmp_path), 0)
    assert "\n" not in str(caught.value)


def test_what_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="no folder nowhere: give wds/FOLDER, a folder of tar shards"):
        data.load_dataset("wds/nowhere", (12, 12), 3)
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UsageError, match="hfds/... needs the library datasets: pip install 'maskbench.hfds.'"):
        data.load_dataset("hfds/somebody/photos", (12, 12), 3)


def test_identity_and_workers(tmp_path: Path) -> None:
    ids = {make_plan(config(tmp_path, "./x", memory_gib, workers)).run_id for memory_gib, workers in ((0, 3), (4, 0))}
    assert len(ids) == 1
    assert isinstance(make_plan(tiny_config(tmp_path)).config.system.workers, int)
    with pytest.raises(UsageError, match="system.workers"):
        tiny_config(tmp_path, system__workers="many")


def test_probes_of_streamed_data(tmp_path: Path) -> None:
    """Those that need object masks are refused; the others give the numbers that they give of packed data."""
    folders(tmp_path / "data")
    every = {
        "probes": "features,robust:severities=[1]:dropped=[50],finetune:epochs=1:layer_decays=[1.0]",
        "train__epochs": 1,
    }
    packed, streamed = (run(config(tmp_path / str(gib), str(tmp_path / "data"), gib, **every)) for gib in (4, 0))
    known = [{k: v for k, v in record.metrics.items() if not k.startswith("cost/")} for record in (packed, streamed)]
    assert known[0] == known[1] and any(name.startswith("robust/") for name in known[0])
    with pytest.raises(UsageError, match="object"):
        run(config(tmp_path / "dense", str(tmp_path / "data"), probes="dense"))


JPEG = ["--img-size", "64", "--patch-size", "8", "--epochs", "2", "--batch-size", "64", "--warmup-epochs", "0"]
JPEG += ["--device", "cpu", "--precision", "fp32", "--probes", "knn", "--workers", "2"]
JPEG += ["--set", "model.kwargs={embed_dim: 32, depth: 1, num_heads: 2}", "--set", "train.online_every=2"]
STREAMED = ["--set", "data.memory_gib=0"]


def jpegs(root: Path, count: int) -> Path:
    """Photographs, or something like them, of 480 x 640; there are 20 of them, again and again."""
    originals = [io.BytesIO() for _ in range(20)]
    for number, file in enumerate(originals):
        picture(number, 96, 128).resize((640, 480), Image.Resampling.BICUBIC).save(file, "JPEG", quality=90)
    for split, number in [("train", n) for n in range(count)] + [("test", n) for n in range(count // 10)]:
        path = root / split / CLASSES[number % 3] / f"{number:05}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(originals[number % 20].getvalue())
    return root


def peak_mib(arguments: list[str], folder: Path) -> float:
    """The most memory that `maskbench run` and its processes hold together: pages that they share counted once, those
    of files, which the system takes back when it likes, not at all."""
    command = [sys.executable, "-m", "maskbench", "run", "--output", str(folder / "out"), *arguments]
    environment, peak = os.environ | {"MASKBENCH_CACHE": str(folder / "cache")}, 0.0
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as process:
        while process.poll() is None:
            peak = max(peak, sum(map(held_mib, family(process.pid))))
            time.sleep(0.05)
    assert process.returncode == 0
    return peak


def family(pid: int) -> list[int]:
    """The process and all that come from it."""
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except OSError:
        return []
    return [pid, *(one for child in children for one in family(int(child)))]


def held_mib(pid: int) -> float:
    try:
        about = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    except OSError:  # it has just ended
        return 0.0
    return sum(int(line.split()[1]) for line in about if line.startswith(("Pss_Anon", "Pss_Shmem"))) / 2**10


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_memory_does_not_grow_with_the_folder(tmp_path: Path) -> None:
    """Ten times as many images of 128 x 128 may take 64 MiB more, which is what 1,365 of the 3,168 that are added would
    take in memory: peaks of the same run, looked at 20 times a second, differ by 20 MiB. Either run fills the largest
    chunk of images that is encoded at a time, 256."""
    peaks = []
    for count in (320, 3200):
        root = jpegs(tmp_path / str(count), count)
        peaks.append(peak_mib(["--dataset", str(root), *JPEG, *STREAMED], tmp_path / f"run-{count}"))
    print(f"peaks in MiB: {peaks}")
    assert peaks[1] - peaks[0] < 64, peaks


@pytest.mark.integration
def test_the_command_is_stopped_and_killed_without_a_mess(tmp_path: Path) -> None:
    """Ctrl-C, which a terminal sends to every process; then a process that decodes is killed."""
    root = jpegs(tmp_path / "data", 200)
    command = [sys.executable, "-m", "maskbench", "run", "--dataset", str(root), *JPEG, *STREAMED, "--epochs", "200"]
    environment = os.environ | {"MASKBENCH_CACHE": str(tmp_path / "cache")}

    def started(*more: str) -> tuple[subprocess.Popen[str], list[int]]:
        heed = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
        process = subprocess.Popen(
            [*command, *more], cwd=tmp_path, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed,
            start_new_session=True,
        )  # fmt: skip
        wait_for_words(process, "200 epochs")
        while len(decoding := [pid for pid in family(process.pid) if b"spawn_main" in cmdline(pid)]) < 2:
            time.sleep(0.05)
        time.sleep(5)
        return process, decoding

    process, _ = started()
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=120)
    assert process.returncode == 130 and "is saved at step" in said and "Traceback" not in said, said
    process, decoding = started("--checkpoint-every", "1")
    os.kill(decoding[0], signal.SIGKILL)
    _, said = process.communicate(timeout=120)
    lines = [line for line in said.splitlines() if "failed: a process that decodes images died" in line]
    assert process.returncode == 1 and lines and "Traceback" not in said, said
    assert list(tmp_path.glob("results/quick/runs/random-*/checkpoint.pt"))
    assert not [pid for pid in decoding if b"spawn_main" in cmdline(pid)]


def cmdline(pid: int) -> bytes:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return b""


@pytest.mark.integration
@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_run_on_cifar10_stays_under_two_gibibytes(tmp_path: Path) -> None:
    """Resident, files and all, from unpacking to probes; all 50,000 images, once."""
    folder = DATA / "cifar10"
    if not folder.is_dir():
        pytest.skip(f"no CIFAR-10 in {folder}")
    arguments = ["--dataset", str(folder), "--preset", "cifar10-cpu", "--epochs", "1", "--device", "cpu"]
    arguments += ["--set", "data.limit=null", "--set", "train.online_every=1", "--warmup-epochs", "0"]
    command = [sys.executable, "-m", "maskbench", "run", "--output", str(tmp_path / "out"), *arguments]
    subprocess.run(command, check=True, env=os.environ | {"MASKBENCH_CACHE": str(tmp_path / "cache")})
    peak_kib = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    assert peak_kib < 2 * 2**20
