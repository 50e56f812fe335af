"""The `evalkit` command: its workspace option, its subcommands, and the place where errors become one line."""

import errno
import os
from pathlib import Path
from typing import Any

import click

from evalkit.cli.baseline import ablate_command, baseline_command
from evalkit.cli.compare import compare_command, curve_command
from evalkit.cli.datasets import datasets_command, doctor_command
from evalkit.cli.dedup import dedup_command
from evalkit.cli.extract import extract_command
from evalkit.cli.features import features_command
from evalkit.cli.latent import latent_group
from evalkit.cli.nn_error import nn_error_command
from evalkit.cli.options import log_to_stderr
from evalkit.cli.prepare import prepare_command
from evalkit.cli.pretrained import pretrained_command
from evalkit.cli.report import report_command
from evalkit.cli.reproduce import reproduce_command
from evalkit.cli.svm import svm_command
from evalkit.cli.train_gan import train_command
from evalkit.cli.verify import verify_command
from evalkit.errors import EvalkitError, is_of_library, one_line, printable
from evalkit.version import __version__
from evalkit.workspace import Workspace

_BUGS = (errno.EBADF, errno.EFAULT, errno.ECHILD)  # errors of the system that are evalkit's own fault
_LONGEST = 1500


class Group(click.Group):
    """Shows an error that the user can fix as one line, exit status 1; anything else keeps its traceback."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except EvalkitError as error:
            raise click.ClickException(printable(str(error))[:_LONGEST]) from error
        except BrokenPipeError:
            raise
        except OSError as error:
            if error.errno is None or error.errno in _BUGS:
                raise
            where = f"{error.filename}: " if error.filename else ""
            raise click.ClickException(printable(f"{where}{error.strerror}; finished work is kept")) from error
        except Exception as error:
            if not is_of_library(error):
                raise
            raise click.ClickException(f"{one_line(error)}; is one of the files it reads damaged?") from error


@click.group(cls=Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(__version__, prog_name="evalkit")
@click.option(
    "--home",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("evalkit-home"),
    envvar="EVALKIT_HOME",
    show_default=True,
    show_envvar=True,
    help="Workspace: the folder in which commands find each other's output.",
)
@click.pass_context
def main(ctx: click.Context, home: Path) -> None:
    """How good is an image representation?

    Train the DCGAN, extract features with any encoder, fit exact linear SVMs, and compare with the published results.

    \b
    Example:
      evalkit prepare /data/ILSVRC2012/train --name imagenet
      evalkit train-gan
      evalkit extract --dataset cifar10
      evalkit svm
      evalkit report
    """
    # Set before torch loads: waiting threads sleep. On a busy machine, spinning ones took several times as long.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    log_to_stderr()
    ctx.obj = Workspace(home)


for _command in (
    prepare_command,
    dedup_command,
    train_command,
    extract_command,
    features_command,
    svm_command,
    baseline_command,
    ablate_command,
    curve_command,
    compare_command,
    nn_error_command,
    report_command,
    verify_command,
    reproduce_command,
    pretrained_command,
    latent_group,
    datasets_command,
    doctor_command,
):
    main.add_command(_command)
