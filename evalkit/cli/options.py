"""Options and displays that several commands share, so that they read the same everywhere.

The protocol's options, shared by the commands that measure, and the line that says what was measured.
"""

import logging
import sys
import types
import typing
from collections.abc import Callable
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.evaluation.protocol import Protocol, protocol_named

if TYPE_CHECKING:  # results.py loads pandas, which --help need not wait for
    from evalkit.results import Result

Command = Callable[..., Any]


def settings_options(settings: type, *names: str) -> Callable[[Command], Command]:
    """Options built from the fields of a settings dataclass: those named, or all that are made by `setting`.

    The field `num_test_subsets` becomes the option --num-test-subsets, its value the keyword argument
    `num_test_subsets`. A Literal becomes a choice, a bool a --flag/--no-flag pair; numbers keep the field's bounds.
    """
    types_of = typing.get_type_hints(settings)
    chosen = [each for each in fields(settings) if (each.name in names if names else "help" in each.metadata)]

    def decorate(command: Command) -> Command:
        for each in reversed(chosen):
            command = _option(each, types_of[each.name])(command)
        return command

    return decorate


def _option(each: "Field[Any]", kind: Any) -> Callable[[Command], Command]:
    flag, about = "--" + each.name.replace("_", "-"), each.metadata
    optional = typing.get_origin(kind) in (types.UnionType, typing.Union)
    if optional:
        kind = next(part for part in typing.get_args(kind) if part is not type(None))
    common: dict[str, Any] = {"default": each.default, "help": about["help"], "metavar": about["metavar"]}
    common["show_default"] = each.default is not None and each.default != ""
    if kind is bool:
        return click.option(f"{flag}/--no-{flag[2:]}", default=each.default, help=about["help"], show_default=True)
    if typing.get_origin(kind) is typing.Literal:
        return click.option(flag, type=click.Choice(list(typing.get_args(kind))), **common)
    if kind in (int, float):
        range_of = click.IntRange if kind is int else click.FloatRange
        return click.option(flag, type=range_of(min=about["minimum"], max=about["maximum"]), **common)
    return click.option(flag, type=kind, **common)


def device_option(command: Command) -> Command:
    """--device"""
    return click.option(
        "--device",
        default="auto",
        show_default=True,
        help="Device to compute on: auto (CUDA if there is one), cpu, cuda or cuda:N.",
    )(command)


def precision_option(command: Command) -> Command:
    """--precision"""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Arithmetic of convolutions; auto is bfloat16 where the hardware is faster with it.",
    )(command)


def download_option(command: Command) -> Command:
    """--download / --no-download"""
    return click.option(
        "--download/--no-download", default=True, show_default=True, help="Download missing files of a named data set."
    )(command)


class _ToStderr(logging.Handler):
    """Writes messages as plain lines to the current sys.stderr, above a progress bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        from tqdm import tqdm

        try:
            tqdm.write(self.format(record), file=sys.stderr)
        except Exception:
            self.handleError(record)


def log_to_stderr() -> None:
    """Shows the log messages of evalkit from INFO up on standard error; results alone go to standard output."""
    logger = logging.getLogger("evalkit")
    logger.setLevel(logging.INFO)
    if not any(isinstance(handler, _ToStderr) for handler in logger.handlers):
        logger.addHandler(_ToStderr())


def say(line: str) -> None:
    """Progress and the artifacts taken go to standard error, so that pipes get results alone."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)  # above a bar, where there is one


def protocol_options(command: Command) -> Command:
    """--protocol and an option for each setting of a protocol, as `chosen_protocol` takes them."""
    command = settings_options(Protocol)(command)
    return click.option(
        "--protocol",
        "named",
        help="DATASET, DATASET:LABELS_PER_CLASS or svhn:1000; the options below change it [default: all labels].",
    )(command)


def chosen_protocol(*, named: str | None, **options: Any) -> Protocol:
    """The protocol named, or the default one, changed by the options that are given on the command line."""
    context = click.get_current_context()
    given = {
        name: value
        for name, value in options.items()
        if context.get_parameter_source(name) is not click.core.ParameterSource.DEFAULT
    }
    return replace(protocol_named(named) if named else Protocol(), **given)


def features_option(command: Command) -> Command:
    """--features"""
    return click.option(
        "--features", help="Feature set by name or path [default: the latest, of the protocol's data set]."
    )(command)


def label_subsets_option(command: Command) -> Command:
    """--label-subsets"""
    return click.option(
        "--label-subsets",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="File of label subsets that an earlier run wrote; its rows are used instead of the protocol's.",
    )(command)


def result_line(result: "Result") -> str:
    """One line: what was measured, with its uncertainty."""
    on_test = ", SELECTED ON TEST" if result.select_on == "test" else ""
    layers = f", {result.layers}" if result.layers else ""
    scaling = f", {result.scaling}" if result.scaling else ""
    return (
        f"{result.dataset}, {result.encoder}{layers}{scaling}, {result.classifier}, labels per class: "
        f"{result.protocol}: test {result.metric.removesuffix('_percent')} {result.value:.2f} % ± "
        f"{result.uncertainty:.2f} ({result.uncertainty_type}, n = {result.n}, {result.hyperparameter}{on_test}; "
        f"{result.interval_type} {result.interval_low:.2f} to {result.interval_high:.2f})"
    )
