"""evalkit datasets and evalkit doctor: what is where, and on what machine."""

import os
import platform

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
    import shutil

    import torch

    from evalkit import list_datasets
    from evalkit.runtime import describe_device, resolve_device, resolve_precision
    from evalkit.version import versions

    click.echo(f"platform: {platform.platform()}")
    for name, version in versions().items():
        click.echo(f"{name}: {version}")
    device = resolve_device("auto")
    click.echo(f"device: {device} ({describe_device(device)}), precision {resolve_precision('auto', device)}")
    for index in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(index)
        click.echo(f"cuda:{index}: {about.name}, {about.total_memory / 2**30:.0f} GiB")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    existing = next(path for path in (workspace.home.resolve(), *workspace.home.resolve().parents) if path.exists())
    free = shutil.disk_usage(existing).free / 2**30
    click.echo(f"memory: {memory:.1f} GiB, disk: {free:.1f} GiB free at {existing}")
    click.echo(f"workspace: {workspace.home}, downloads: {workspace.downloads}")
    for line in list_datasets(workspace):
        click.echo(line)
