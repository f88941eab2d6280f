"""python -m tests.fuzz DOOR...: sends every input through its door and prints what was wrong, a line each."""

import os
import shutil
import sys
import tempfile
from pathlib import Path

from tests.fuzz.doors import DOORS
from tests.fuzz.guard import install, judge, limit_memory
from tests.fuzz.inputs import Input, sound_folder
from tests.helpers.command_line import Done, maskbench


def main(doors: list[str]) -> int:
    """Prints "DOOR: N inputs, M wrong" after each door; the exit code is the number of wrong ones, at most 100."""
    with tempfile.TemporaryDirectory(prefix="maskbench-fuzz-") as name:
        place = Path(name)
        os.environ["MASKBENCH_CACHE"] = str(place / "cache")
        sound = place / "sound"
        sound.mkdir()
        sound_folder(sound, maskbench)
        install()
        limit_memory()
        wrong = sum(try_door(door, sound, place / "tried") for door in doors or DOORS)
    return min(wrong, 100)


def try_door(door: str, sound: Path, tried: Path) -> int:
    """How many inputs ended otherwise than they should."""
    count = wrong = 0
    for each in DOORS[door](sound):
        count += 1
        fault = try_input(each, sound, tried)
        if fault is not None:
            wrong += 1
            print(f"{door}: {each.name[:100]!r}: {fault}", flush=True)
    print(f"{door}: {count} inputs, {wrong} wrong", flush=True)
    return wrong


def try_input(each: Input, sound: Path, tried: Path) -> str | None:
    shutil.rmtree(tried, ignore_errors=True)
    shutil.copytree(sound, tried, symlinks=True)
    each.place(tried)

    def command() -> Done:
        return maskbench(*each.command, cwd=tried)

    return judge(command, tried, each.codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
