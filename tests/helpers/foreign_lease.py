"""The lease of a process on another machine, which has died."""

from pathlib import Path

from maskbench.runs.lease import hold_lease


def leave_foreign_lease(folder: Path) -> None:
    """Writes the lock file that a process on another, dead machine leaves in `folder`."""
    folder.mkdir(parents=True)
    with hold_lease(folder, waiting=None) as lease:
        marker = Path(lease.lock_file).read_text()
    lines = ["host=another-machine" if line.startswith("host=") else line for line in marker.splitlines()]
    (folder / "running.lock").write_text("\n".join(lines) + "\n")
