"""evalkit latent explore."""

from typing import Any

import click

from evalkit.cli.latent.options import gan_options, open_named_gan
from evalkit.cli.options import say, settings_options
from evalkit.latent.settings import ExploreSettings
from evalkit.workspace import Workspace


@click.command("explore")
@settings_options(ExploreSettings)
@gan_options
@click.pass_obj
def explore_command(workspace: Workspace, run: str, label: int | None, device: str, **options: Any) -> None:
    """Serve a page to pick samples, do arithmetic and walk with the mouse; for this machine only, until Ctrl-C.

    \b
    Example:
      evalkit latent explore
    """
    from evalkit import explore_gan

    with explore_gan(open_named_gan(workspace, run, label, device), ExploreSettings(**options)) as server:
        click.echo(f"http://127.0.0.1:{server.server_port}/")
        say("press Ctrl-C to stop")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("stopped")
