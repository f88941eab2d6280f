"""Files that appear whole: through no link, with the permissions that the umask leaves."""

import os
import stat
from pathlib import Path

import pytest

from maskbench.errors import UsageError
from maskbench.runtime.atomic_files import make_folder, write_atomically


@pytest.mark.parametrize("sync", [True, False])
def test_a_link_in_the_place_of_a_file_is_replaced(tmp_path: Path, sync: bool) -> None:
    (tmp_path / "theirs").write_text("theirs")
    (tmp_path / "soft").symlink_to("theirs")
    (tmp_path / "hard").hardlink_to(tmp_path / "theirs")
    (tmp_path / "dangling").symlink_to("made-by-nobody")
    for name in ("soft", "hard", "dangling"):
        write_atomically(tmp_path / name, "ours", sync=sync)
        assert (tmp_path / name).read_text() == "ours" and not (tmp_path / name).is_symlink()
    assert (tmp_path / "theirs").read_text() == "theirs"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dangling", "hard", "soft", "theirs"]


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_the_umask_decides_who_may_read(tmp_path: Path, umask: int, mode: int) -> None:
    before = os.umask(umask)
    try:
        write_atomically(tmp_path / "a.json", "{}")
        (tmp_path / "plain").touch()
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a.json").stat().st_mode) == mode
    assert stat.S_IMODE((tmp_path / "plain").stat().st_mode) == mode


def test_folders_below_the_root_are_no_links(tmp_path: Path) -> None:
    (tmp_path / "disk").mkdir()
    (tmp_path / "out").symlink_to("disk")  # the root itself is the user's own word
    assert make_folder(tmp_path / "out", "runs", "a").is_dir() and (tmp_path / "disk" / "runs" / "a").is_dir()
    (tmp_path / "out" / "runs" / "b").symlink_to("../../disk")
    with pytest.raises(UsageError, match="runs/b is a link, and nothing is written through it"):
        make_folder(tmp_path / "out", "runs", "b", "c")
    (tmp_path / "out" / "runs" / "d").symlink_to("nowhere")
    with pytest.raises(UsageError, match="runs/d is a link"):
        make_folder(tmp_path / "out", "runs", "d")
    assert [path.name for path in (tmp_path / "disk").iterdir()] == ["runs"]
    (tmp_path / "file").touch()
    with pytest.raises(NotADirectoryError):
        make_folder(tmp_path, "file")
