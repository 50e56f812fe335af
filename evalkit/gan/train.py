"""The trainer: from an image set to a run with checkpoints, metrics and sample grids; resumes what was interrupted.

Every minibatch, its images and its z, is a function of the seed and its number alone. So a resumed run needs no
random state, and on one kind of hardware it equals an undisturbed one bit for bit.

The training loop: which network a minibatch updates, and what is logged, saved and watched on the way.

Alarms: signs in metrics.csv that a run has gone wrong for good.

SIGINT and SIGTERM as a request to stop: the loop ends its update, writes a checkpoint and goes.
"""

import signal
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Protocol

from tqdm import tqdm

from evalkit.artifacts import locked
from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import (
    TrainingSegment,
    TrainingState,
    extend_history,
    new_state,
    restore,
    rewind,
    save_checkpoint,
)
from evalkit.gan.minibatches import DISCRIMINATOR, GENERATOR, Minibatches
from evalkit.gan.monitor import (
    Events,
    Metrics,
    diversity,
    nearest_sample_distance,
    sample,
    write_sample_grid,
    write_sorted_grid,
)
from evalkit.gan.norms import sync_batch_norms
from evalkit.gan.recipes import Recipe, TrainOptions
from evalkit.gan.run_dir import (
    checkpoint_before,
    checkpoints,
    init_from_checkpoint,
    latest_checkpoint,
    open_run,
    prune_checkpoints,
    remove_checkpoints_after,
)
from evalkit.gan.steps import average_step, discriminator_step, generator_step
from evalkit.images.imageset import ImageSet
from evalkit.runtime import ALONE, Ranks, arithmetic, joined, local_device, resolve_device

_AGREE = 10  # D updates between two agreements of several processes on whether to stop or save: each costs a wait
_MOST_REWINDS = 3  # a run that collapses again and again needs a person
_DIVERSITY_SAMPLES, _DIVERSITY_SEED = 64, 20151120


class Watcher(Protocol):
    """Something that looks at a checkpoint every so many D updates, e.g. a probe."""

    every: int

    def __call__(self, checkpoint: Path) -> None: ...


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
        EvalkitError: the images do not fit the recipe, `run` was made with other settings, the loss became NaN, or
            the run collapsed.
    """
    device = local_device(resolve_device(options.device))
    with joined(device) as ranks, locked(run) if ranks.writes else nullcontext():
        minibatches = Minibatches(images, recipe, seed=options.seed, device=device, ranks=ranks)
        state = new_state(recipe, seed=options.seed, device=device)
        if start and not checkpoints(run):
            init_from_checkpoint(state, start)
        manifest = open_run(images, run, recipe, options, start=start, device=device, ranks=ranks)
        precision = manifest["settings"]["precision"]
        if checkpoints(run):
            restore(state, latest_checkpoint(run))
        synced = options.sync_batch_norm and ranks.count > 1
        state.history = extend_history(state.history, TrainingSegment(state.d_updates, ranks.count, synced, precision))
        for network in (state.generator, state.discriminator):
            if synced:
                sync_batch_norms(network, ranks)
            if options.compile:
                network.compile()
        loop = Trainer(run, state, minibatches, options, precision, manifest["made_from"], ranks=ranks, watcher=watcher)
        return loop.run()


class Trainer:
    """One training from the state at hand to the recipe's number of D updates."""

    def __init__(
        self,
        run: Path,
        state: TrainingState,
        minibatches: Minibatches,
        options: TrainOptions,
        precision: str,
        made_from: dict[str, Any],
        *,
        ranks: Ranks = ALONE,
        watcher: Watcher | None = None,
    ):
        self.path, self.state, self.minibatches, self.options = run, state, minibatches, options
        self.precision, self.made_from, self.ranks, self.watcher = precision, made_from, ranks, watcher
        minibatches.rewinds = state.rewinds
        self._saved_at, self._saved = time.monotonic(), state.minibatches if checkpoints(run) else -1
        self._open_logs()

    def _open_logs(self) -> None:
        self.metrics = Metrics(self.path / "metrics.csv", self.state, device=self.minibatches.device, ranks=self.ranks)
        wanted = self.options.tensorboard and self.ranks.writes
        self._events = Events(self.path / "events", from_step=self.state.d_updates) if wanted else None

    def run(self) -> Path:
        """Trains to the end and returns the last checkpoint.

        Raises:
            EvalkitError: a signal asked to stop, the loss is no longer finite, or the run collapsed.
        """
        state, recipe = self.state, self.state.recipe
        end = recipe.d_updates * (2 if recipe.schedule == "alternate" else 1)
        silent = None if self.ranks.writes else True
        bar = tqdm(total=recipe.d_updates, initial=state.d_updates, unit="D update", disable=silent)
        self._watch_first()
        with stop_signals() as stop, bar:
            while state.minibatches < end and not self._agreed(stop.is_set()):
                before = state.d_updates
                self.step(state.minibatches)
                state.minibatches += 1
                if state.d_updates == before:
                    continue
                bar.update()
                if state.d_updates % self.options.log_updates == 0 and self._log(bar):
                    bar.update(state.d_updates - bar.n)
                elif self._due():
                    self.save()
            stopped = state.minibatches < end
        if self._saved != state.minibatches:
            self.save()
        if stopped:
            raise EvalkitError(
                f"stopped after {state.d_updates} of {recipe.d_updates} D updates, checkpoint written; "
                "the same command goes on from there"
            )
        return latest_checkpoint(self.path)

    def _agreed(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; several ranks compare at some updates only, all at the same ones."""
        if self.ranks.count == 1:
            return flag
        return self.state.minibatches % (2 * _AGREE) == 0 and any(self.ranks.objects(flag))

    def step(self, t: int) -> None:
        """Goes through minibatch t: one update of the network whose turn it is, or of both."""
        state, recipe = self.state, self.state.recipe
        _set_learning_rate(state)
        g, d, classes, ranks = state.generator, state.discriminator, self.minibatches.classes(t), self.ranks
        alternate = recipe.schedule == "alternate"
        with arithmetic(self.precision, self.minibatches.device):
            if not alternate or t % 2 == 0:  # G first [release]
                z, noise = self.minibatches.z(t, GENERATOR), self.minibatches.noise(t, 1)
                loss = generator_step(g, d, state.g_optimizer, z, classes=classes, noise=noise, ranks=ranks)
                self.metrics.add_generator(loss)
                if state.g_average:
                    average_step(state.g_average, g, recipe.g_ema)
            if not alternate or t % 2 == 1:
                real, z = self.minibatches.real(t), self.minibatches.z(t, DISCRIMINATOR)
                noise = self.minibatches.noise(t, 2)
                losses = discriminator_step(g, d, state.d_optimizer, real, z, classes=classes, noise=noise, ranks=ranks)
                self.metrics.add_discriminator(*losses)
                if state.d_average:
                    average_step(state.d_average, d, recipe.d_ema)

    def _log(self, bar: tqdm) -> bool:
        """Writes a line of metrics and heeds the alarms; True if the run stepped back."""
        row = self.metrics.log(self.state, self.sample_metrics() if self.ranks.writes else {})
        bar.set_postfix({"D": round(row["d_loss"], 3), "G": round(row["g_loss"], 3)})
        if self._events:
            self._events.add(row, self.state.d_updates)
        found = self.ranks.objects(detect_collapse(self.metrics.rows))[0]
        if found:
            self.handle_collapse(*found)
        return bool(found)

    def sample_metrics(self) -> dict[str, float]:
        """What the samples say: their diversity; once an epoch also a grid of them and, where asked for, the nnd."""
        state, recipe = self.state, self.state.recipe
        samples = sample(state.sampler, recipe, _DIVERSITY_SAMPLES, seed=_DIVERSITY_SEED)
        found = {"diversity": diversity(samples)}
        a_line = self.options.log_updates * (2 if recipe.schedule == "alternate" else 1)
        now, before = (t // self.minibatches.batches_per_epoch for t in (state.minibatches, state.minibatches - a_line))
        if now > before:
            write_sample_grid(self.path / "samples" / f"d-{state.d_updates:08d}.png", state.sampler, recipe)
            if self.options.nnd_samples:
                images, count = self.minibatches.images, self.options.nnd_samples
                found["nnd"] = nearest_sample_distance(state.sampler, recipe, images, samples=count)
        return found

    def handle_collapse(self, what: str, since: int) -> None:
        """Steps back to before the alarm's cause, or raises EvalkitError, as the options say."""
        state = self.state
        line = f"{what} since {since} D updates"
        if self.options.on_collapse == "stop":
            raise EvalkitError(f"{line}; the checkpoints are kept; try --on-collapse rewind, or a smaller --set lr=…")
        if state.rewinds >= _MOST_REWINDS:
            raise EvalkitError(f"{line}, after {state.rewinds} rewinds; try another recipe, or a smaller --set lr=…")
        target = self.ranks.objects(checkpoint_before(self.path, since))[0]
        rewind(state, target)
        self.ranks.wait()
        if self.ranks.writes:
            remove_checkpoints_after(self.path, target)
            tqdm.write(
                f"{line}: back to {target.name} with fresh minibatches (rewind {state.rewinds})", file=sys.stderr
            )
        self.minibatches.rewinds = state.rewinds
        self._saved_at, self._saved = time.monotonic(), state.minibatches
        self._open_logs()

    def _due(self) -> bool:
        updates, options = self.state.d_updates, self.options
        regular = (options.checkpoint_updates, options.milestones, self.watcher.every if self.watcher else 0)
        if any(every and updates % every == 0 for every in regular):
            return True
        return self._agreed(time.monotonic() - self._saved_at > 60 * options.checkpoint_minutes)

    def save(self) -> None:
        """Writes a checkpoint and grids of samples, unless the losses are no longer numbers; lets the watcher look."""
        self.metrics.check_finite(self.state)
        if self.ranks.writes:
            self._show()
            self.metrics.sync()
            save_checkpoint(self.path, self.state, made_from=self.made_from)
            prune_checkpoints(self.path, keep=self.options.keep, milestones=self.options.milestones)
            self._watch_last()
        self.ranks.wait()
        self._saved_at, self._saved = time.monotonic(), self.state.minibatches

    def _show(self) -> None:
        state, name = self.state, f"d-{self.state.d_updates:08d}.png"
        write_sample_grid(self.path / "samples" / name, state.sampler, state.recipe)
        write_sorted_grid(self.path / "sorted" / name, state.sampler, state.discriminator, state.recipe)

    def _watch_first(self) -> None:
        """Lets the watcher see the initial weights, or what a killed run had saved and not shown."""
        if self.watcher and self.ranks.objects(not checkpoints(self.path))[0]:
            self.save()
        else:
            self._watch_last()

    def _watch_last(self) -> None:
        """Shows the last checkpoint to the watcher if it is one that it looks at; it knows which it has seen."""
        found = checkpoints(self.path)
        if self.watcher and found and self.ranks.writes:
            if int(found[-1].name.removeprefix("d-")) % self.watcher.every == 0:
                self.watcher(found[-1])


def _set_learning_rate(state: TrainingState) -> None:
    recipe = state.recipe
    done = state.d_updates / recipe.d_updates
    left = 1.0 if done < recipe.lr_decay_start else (1 - done) / (1 - recipe.lr_decay_start)
    for optimizer in (state.g_optimizer, state.d_optimizer):
        optimizer.param_groups[0]["lr"] = recipe.lr * left


_LINES = 10  # in a row: a bad moment passes, a broken run does not
_SATURATED_LOSS = 2e-3  # of D, BCE or hinge: real and fake told apart with certainty leaves G hardly a gradient
_COLLAPSED_DIVERSITY = 0.1  # 99 % of the variance is in the mean image; natural images have 0.99


def detect_collapse(rows: Sequence[dict[str, float]]) -> tuple[str, int] | None:
    """What is wrong according to the last lines of metrics.csv, and since how many D updates; None if nothing is.

    Args:
        rows: the lines, oldest first, with at least `d_updates`, `d_loss` and `diversity`.
    """
    last = list(rows[-_LINES:])
    if len(last) < _LINES:
        return None
    since = int(last[0]["d_updates"])
    if all(row["d_loss"] < _SATURATED_LOSS for row in last):
        return f"D tells all samples from real images (its loss is below {_SATURATED_LOSS})", since
    if all(row["diversity"] < _COLLAPSED_DIVERSITY for row in last):
        return f"samples have collapsed (their diversity is below {_COLLAPSED_DIVERSITY})", since
    return None


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once."""
    stop = threading.Event()
    previous = {}

    def request(number: int, frame: object) -> None:
        stop.set()
        signal.signal(number, signal.SIG_DFL)

    if threading.current_thread() is threading.main_thread():
        previous = {number: signal.signal(number, request) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
