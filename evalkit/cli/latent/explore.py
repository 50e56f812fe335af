"""evalkit latent explore."""

import click

from evalkit.cli.latent.options import gan_options, named_gan, seed_option
from evalkit.cli.options import say
from evalkit.workspace import Workspace


@click.command("explore")
@click.option("--count", type=click.IntRange(2, 400), default=64, show_default=True, help="Samples to pick from.")
@click.option(
    "--port", type=click.IntRange(0, 65535), default=8765, show_default=True, help="Of 127.0.0.1; 0: any free one."
)
@seed_option("the samples, and of the neighbours of a sum")
@gan_options
@click.pass_obj
def explore_command(
    workspace: Workspace, count: int, port: int, seed: int, run: str, label: int | None, device: str
) -> None:
    """Serve a page to pick samples, do arithmetic and walk with the mouse; for this machine only, until Ctrl-C.

    \b
    Example:
      evalkit latent explore
    """
    from evalkit.latent.explore import Explorer, serve

    gan = named_gan(workspace, run, label, device)
    with serve(Explorer(gan, gan.draw(count, seed=seed), seed=seed), port=port) as server:
        click.echo(f"http://127.0.0.1:{server.server_port}/")
        say("Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            say("ended")
