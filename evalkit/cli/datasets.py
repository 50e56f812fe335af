"""evalkit datasets and evalkit doctor: what is where, and on what machine."""

import click

from evalkit.workspace import Workspace


@click.command("datasets")
@click.pass_obj
def datasets_command(workspace: Workspace) -> None:
    """List the named data sets and the image sets prepared in the workspace.

    \b
    Example:
      evalkit datasets
    """
    from evalkit import list_datasets

    for line in list_datasets(workspace):
        click.echo(line)


@click.command("doctor")
@click.pass_obj
def doctor_command(workspace: Workspace) -> None:
    """Show versions, devices, memory, disk and data sets: what a bug report or a run's log should say.

    \b
    Example:
      evalkit doctor
    """
    from evalkit import doctor

    for line in doctor(workspace):
        click.echo(line)
