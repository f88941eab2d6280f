"""The command line: parsing only. Data goes to stdout, everything else to stderr; exit 0, 1 failed run, 2 usage."""

import codecs
import errno
import functools
import io
import os
import re
import signal
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Annotated, Any

import typer

from maskbench._version import __version__
from maskbench.cli import bench, data, encoders, plan, rerun, results, run, status, strategies
from maskbench.cli.help import SectionedCommand, SectionedGroup
from maskbench.cli.option_groups import expand_groups
from maskbench.errors import MAX_QUOTED, AlreadyReported, Failure, UsageError, quoted, unquoted
from maskbench.runtime.escaping import print_message
from maskbench.runtime.interrupt import Interrupted, raise_ctrl_c
from maskbench.runtime.launcher import detect_launch
from maskbench.runtime.plugin_exits import PluginExit, describe_plugin_error, exits_as_errors
from maskbench.runtime.standard_streams import (
    OutputUnread,
    explain_stdout_error,
    flush_stdout,
    prepare_streams,
    print_data,
    stdout_for_data,
)

app = typer.Typer(
    name="maskbench",
    cls=SectionedGroup,
    help="Compare ways of hiding or degrading images for pre-training vision transformers.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


INTERRUPTED = 130  # a shell's code for Ctrl-C
SECONDS_FOR_FIRST = 60  # that other processes of the machine wait for the first to report a mistake of both


def main() -> None:
    """Run the command line; mistakes are one line on stderr."""
    prepare_streams()
    _survive_narrow_encodings()
    warnings.showwarning = lambda message, *_, **__: _print_warning(str(message))
    with _tell_ctrl_c_apart():
        code = _run_command()
        if code == INTERRUPTED:  # which is also what some versions of typer return for Ctrl-C
            _print_error("interrupted", code)
    try:
        flush_stdout()
    except Failure as error:
        code = code or _print_error(str(error), 1)
    sys.exit(code)


def _run_command() -> int:
    """Its exit code; mistakes are printed."""
    usage_error: Any = typer.BadParameter.__bases__[0]  # click's, which recent typer carries inside itself
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        return _print_error(str(error), 2)
    except usage_error as error:
        message = error.format_message().replace("Value error, ", "")  # which pydantic puts before the reason
        if "NoArgsIsHelp" in type(error).__name__:
            print(message, file=sys.stderr)
            return 2
        return _print_error(message, 2) if message else 2
    except (AlreadyReported, OutputUnread):
        return 1
    except (Failure, PluginExit) as error:
        return _print_error(str(error), 1)
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return _print_error(f"{quoted(str(error.filename))}: the name is too long for this system", 2)
        if error.filename is not None or error.errno not in (errno.ENOSPC, errno.EBADF, errno.EPIPE):
            raise
        failure = explain_stdout_error(error)  # of a help text, which click prints
        return 1 if isinstance(failure, OutputUnread) else _print_error(str(failure), 1)
    except Interrupted as interruption:
        sys.exit(_print_error(str(interruption), 128 + interruption.signal))
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    except Exception as error:
        if (of_plugin := describe_plugin_error(error)) is None:
            raise
        return _print_error(of_plugin, 1)
    return code if isinstance(code, int) else 0


@contextmanager
def _tell_ctrl_c_apart() -> Iterator[None]:
    """Within the block Ctrl-C raises an exception of its own, which no KeyboardInterrupt of a plugin is."""
    before = signal.getsignal(signal.SIGINT)
    if before == signal.SIG_IGN or threading.current_thread() is not threading.main_thread():
        yield
        return
    signal.signal(signal.SIGINT, raise_ctrl_c)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def _survive_narrow_encodings() -> None:
    """Let stdout print ? for what its encoding lacks, such as the Δ and ± of tables, and say so once on stderr."""
    said = False

    def replace(error: UnicodeError) -> tuple[str, int]:
        nonlocal said
        if not isinstance(error, UnicodeEncodeError):
            raise error
        if not said:
            said = True
            _print_warning(f"{error.encoding} lacks some characters, shown as ?; PYTHONIOENCODING=utf-8 prints them")
        return "?" * (error.end - error.start), error.end

    codecs.register_error("replace-and-say", replace)
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="replace-and-say")


def _print_warning(message: str) -> None:
    if detect_launch().is_rank0:
        print_message(message)


def _print_error(message: str, code: int) -> int:
    """One line. If several processes make the same mistake, the first on each machine reports it; every process reports
    its own failure."""
    if code != 1 and detect_launch().local_rank:
        if code != 2:
            return code
        # The launcher stops all processes once one has ended, so this one waits until the first has reported. If the
        # first does not make the mistake, this process reports it, late.
        time.sleep(SECONDS_FOR_FIRST)
    with suppress(OSError):  # nobody may be left to read it
        print_message(_cut_typed(message) if code == 2 else message)
    return code


def _cut_typed(message: str) -> str:
    """With at most MAX_QUOTED characters of each word or value that was typed, but for paths of files."""
    for word in sys.argv[1:]:
        for part in sorted({word, *re.split("[=,:]", word), word.partition("=")[2]}, key=len, reverse=True):
            if len(part) > MAX_QUOTED and not os.path.exists(part):  # noqa: PTH110 - Path.exists raises for long names
                for typed in (part, repr(part)[1:-1], " ".join(part.split())):
                    message = message.replace(typed, unquoted(part))
    return message


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print_data(__version__)
        raise typer.Exit


SECTIONS: dict[str, dict[str, Callable[..., None]]] = {
    "Compare": {
        "run": run.run,
        "table": results.table,
        "plot": results.plot,
        "report": results.report,
        "compare": results.compare,
        "rerun": rerun.rerun,
    },
    "Look": {
        "data": data.data,
        "list": strategies.list_,
        "show": strategies.show,
        "probe": encoders.probe,
        "export": encoders.export,
    },
    "Extend": {"new": strategies.new, "check": strategies.check},
    "Operate": {"status": status.status, "plan": plan.plan, "bench": bench.bench},
}
COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}


def _shielded(command: Callable[..., None]) -> Callable[..., None]:
    """The command, with stdout for its data alone, and an end of its own, whatever plugins print or raise."""

    @functools.wraps(command)
    def run_shielded(*arguments: Any, **options: Any) -> None:
        with stdout_for_data(), exits_as_errors():
            command(*arguments, **options)

    return run_shielded


for _section, _commands in SECTIONS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=SectionedCommand, rich_help_panel=_section)(_shielded(expand_groups(_command)))
