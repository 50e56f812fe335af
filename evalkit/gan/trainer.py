"""The trainer: from an image set to a run with checkpoints, metrics and sample grids; resumes what was interrupted.

Every minibatch, its pictures and its z, is a function of the seed and its number alone. So a resumed run needs no
random state, and on one kind of hardware it equals an undisturbed one bit for bit.
"""

from contextlib import nullcontext
from pathlib import Path

from evalkit.artifacts import locked
from evalkit.device import resolve_device
from evalkit.distributed import joined, local_device
from evalkit.gan.checkpoint import restore
from evalkit.gan.history import Stretch, continued
from evalkit.gan.layout import checkpoints, latest_checkpoint
from evalkit.gan.loop import Loop, Watcher
from evalkit.gan.minibatches import Minibatches
from evalkit.gan.options import TrainOptions
from evalkit.gan.recipe import Recipe
from evalkit.gan.run import open_run
from evalkit.gan.start import begin
from evalkit.gan.state import new_state
from evalkit.gan.syncnorm import sync_norms
from evalkit.images.imageset import ImageSet


def train(
    images: ImageSet,
    run: Path,
    recipe: Recipe,
    *,
    options: TrainOptions = TrainOptions(),
    start: Path | None = None,
    watcher: Watcher | None = None,
) -> Path:
    """Trains a DCGAN on the `train` split of `images` (all, if it has none) and returns the last checkpoint.

    An interrupted run in `run` is resumed; a finished one is left as it is, or trained on if `recipe.d_updates` grew.
    SIGINT and SIGTERM write a checkpoint and end the training. Under `torchrun` each process takes its share of every
    minibatch; the number of processes may change from one resumption to the next, and checkpoints say which it was.

    Args:
        start: a checkpoint whose weights and moments a new run begins with; the recipe may differ in all but shapes.
        watcher: called with a checkpoint every `watcher.every` D updates, in one process.

    Raises:
        EvalkitError: the pictures do not fit the recipe, `run` was made with other settings, the loss became NaN, or
            the run collapsed.
    """
    device = local_device(resolve_device(options.device))
    with joined(device) as ranks, locked(run) if ranks.writes else nullcontext():
        minibatches = Minibatches(images, recipe, seed=options.seed, device=device, ranks=ranks)
        state = new_state(recipe, seed=options.seed, device=device)
        if start and not checkpoints(run):
            begin(state, start)
        manifest = open_run(images, run, recipe, options, start=start, device=device, ranks=ranks)
        precision = manifest["settings"]["precision"]
        if checkpoints(run):
            restore(state, latest_checkpoint(run))
        synced = options.sync_batch_norm and ranks.count > 1
        state.history = continued(state.history, Stretch(state.d_updates, ranks.count, synced, precision))
        for network in (state.generator, state.discriminator):
            if synced:
                sync_norms(network, ranks)
            if options.compile:
                network.compile()
        loop = Loop(run, state, minibatches, options, precision, manifest["made_from"], ranks=ranks, watcher=watcher)
        return loop.run()
