"""Options and displays that several commands share, so that they read the same everywhere."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click

Command = Callable[..., Any]


def device_option(command: Command) -> Command:
    """--device"""
    return click.option("--device", default="auto", show_default=True, help="auto, cpu, cuda or cuda:N.")(command)


def precision_option(command: Command) -> Command:
    """--precision"""
    return click.option(
        "--precision",
        type=click.Choice(["auto", "float32", "bfloat16"]),
        default="auto",
        show_default=True,
        help="Arithmetic of convolutions; auto takes bfloat16 where the hardware is faster in it.",
    )(command)


def download_option(command: Command) -> Command:
    """--download / --no-download"""
    return click.option(
        "--download/--no-download", default=True, show_default=True, help="Fetch a named data set's missing files."
    )(command)


def say(line: str) -> None:
    """Progress and the artifacts taken go to standard error, so that pipes get results alone."""
    from tqdm import tqdm

    tqdm.write(line, file=sys.stderr)  # above a bar, where there is one


@contextmanager
def status_line() -> Iterator[Callable[[str], None]]:
    """A function that shows a line in place of the one before, on standard error, if that is a terminal."""
    from tqdm import tqdm

    with tqdm(bar_format="{desc}", leave=False, disable=None) as line:
        yield line.set_description_str
