"""Options and displays that several commands share, so that they read the same everywhere.

The protocol's options, shared by the commands that measure, and the line that says what was measured.
"""

import logging
import sys
import types
import typing
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import Field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from evalkit.evaluation.protocol import C_GRIDS, Protocol, protocol_named

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


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a line on standard error in place of the previous one, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        yield line.set_description_str


_OPTIONS = (
    click.option("--protocol", "named", help="DATASET, DATASET:LABELS_PER_CLASS or svhn:1000 [default: all labels]."),
    click.option(
        "--labels-per-class",
        type=click.IntRange(min=1),
        help="Draw this many labels a class [default: the protocol's].",
    ),
    click.option(
        "--num-test-subsets", type=click.IntRange(min=1), help="Tested draws [default: 100, or 10 if a draw is large]."
    ),
    click.option(
        "--num-selection-subsets", type=click.IntRange(min=1), help="Draws that choose C [default: 10, or 3]."
    ),
    click.option(
        "--validation",
        type=click.IntRange(min=1),
        default=Protocol.validation,
        show_default=True,
        help="Training rows set aside to choose C; at most a fifth.",
    ),
    click.option("--folds", type=click.IntRange(min=2), help="Choose C by cross-validation instead, in so many folds."),
    click.option(
        "--c-grid",
        type=click.Choice(C_GRIDS),
        help="C values: all of the release's; or on beyond an end that is best, and on many rows not beyond a clear "
        "fall [default: the protocol's; extended].",
    ),
    click.option(
        "--select-on-test", is_flag=True, help="Choose C by test accuracy. The row and every table then say so."
    ),
    click.option(
        "--seed", type=click.IntRange(min=0), default=Protocol.seed, show_default=True, help="Of validation and draws."
    ),
)


def protocol_options(command: Command) -> Command:
    """--protocol, --labels-per-class, --num-test-subsets and the rest, as `chosen_protocol` takes them."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def chosen_protocol(
    *,
    named: str | None,
    labels_per_class: int | None,
    num_test_subsets: int | None,
    num_selection_subsets: int | None,
    validation: int,
    folds: int | None,
    c_grid: str | None,
    select_on_test: bool,
    seed: int,
) -> tuple[str | None, Protocol]:
    """Data set (None where no protocol is named) and protocol of the options; options change a named protocol."""
    dataset, protocol = protocol_named(named) if named else (None, Protocol())
    labels = labels_per_class or protocol.labels_per_class
    return dataset, replace(
        protocol,
        labels_per_class=labels,
        num_test_subsets=num_test_subsets or protocol.num_test_subsets,
        num_selection_subsets=num_selection_subsets or protocol.num_selection_subsets,
        validation=validation,
        folds=folds,
        c_grid=c_grid or protocol.c_grid,
        select_on="test" if select_on_test else "validation",
        seed=seed,
    )


def label_subsets_option(command: Command) -> Command:
    """--label-subsets"""
    return click.option(
        "--label-subsets",
        type=click.Path(exists=True, dir_okay=False, path_type=Path),
        help="Rows to fit and choose on, from a file that an earlier run wrote, instead of drawing.",
    )(command)


def result_line(figure: "Result") -> str:
    """One line: what was measured, with its spread."""
    on_test = ", CHOSEN ON TEST" if figure.select_on == "test" else ""
    part = f", {figure.layers}" if figure.layers else ""
    scaling = f", {figure.scaling}" if figure.scaling else ""
    return (
        f"{figure.dataset}, {figure.encoder}{part}{scaling}, {figure.classifier}, labels a class: {figure.protocol}: "
        f"test {figure.metric.removesuffix('_percent')} {figure.value:.2f} % ± {figure.uncertainty:.2f} "
        f"({figure.uncertainty_type}, n = {figure.n}, {figure.hyperparameter}{on_test}; "
        f"{figure.interval_type} {figure.interval_low:.2f} to {figure.interval_high:.2f})"
    )
