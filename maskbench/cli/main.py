"""The command line: parsing only. Data goes to stdout, everything else to stderr; exit 0, 1 failed run, 2 usage."""

import codecs
import io
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Annotated, Any

import typer

from maskbench._version import __version__
from maskbench.cli import bench, encoders, plan, rerun, results, run, status, strategies
from maskbench.cli.help import SectionedCommand, SectionedGroup
from maskbench.cli.option_groups import expand_groups
from maskbench.errors import AlreadyReported, Failure, UsageError
from maskbench.runtime.escaping import print_message
from maskbench.runtime.interrupt import Interrupted
from maskbench.runtime.launcher import detect_launch

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
    _survive_narrow_encodings()
    warnings.showwarning = lambda message, *_, **__: _print_warning(str(message))
    usage_error: Any = typer.BadParameter.__bases__[0]  # click's, which recent typer carries inside itself
    code: Any
    try:
        code = app(standalone_mode=False)
    except UsageError as error:
        code = _print_error(str(error), 2)
    except usage_error as error:
        message = error.format_message().replace("Value error, ", "")  # which pydantic puts before the reason
        code = 2
        if "NoArgsIsHelp" in type(error).__name__:
            print(message, file=sys.stderr)
        elif message:
            _print_error(message, 2)
    except AlreadyReported:
        code = 1
    except Failure as error:
        code = _print_error(str(error), 1)
    except Interrupted as interruption:
        sys.exit(_print_error(str(interruption), 128 + interruption.signal))
    except (KeyboardInterrupt, typer.Abort):
        code = INTERRUPTED
    if code == INTERRUPTED:  # which is also what some versions of typer return for Ctrl-C
        _print_error("interrupted", code)
    sys.exit(code if isinstance(code, int) else 0)


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
        print_message(message)
    return code


@app.callback(invoke_without_command=True)
def _version(version: Annotated[bool, typer.Option("--version", help="Show the version and exit.")] = False) -> None:
    if version:
        print(__version__)
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
    "Look": {"list": strategies.list_, "show": strategies.show, "probe": encoders.probe, "export": encoders.export},
    "Extend": {"new": strategies.new, "check": strategies.check},
    "Operate": {"status": status.status, "plan": plan.plan, "bench": bench.bench},
}
COMMANDS = {name: command for section in SECTIONS.values() for name, command in section.items()}
for _section, _commands in SECTIONS.items():
    for _name, _command in _commands.items():
        app.command(_name, cls=SectionedCommand, rich_help_panel=_section)(expand_groups(_command))
