"""The training loop: which network a minibatch updates, and what is logged, saved and probed along the way.

train.py sets it up; steps.py has one update of each network, monitor.py the metrics and samples.
"""

import logging
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tqdm import tqdm

from evalkit.errors import EvalkitError
from evalkit.gan.checkpoint import TrainingState, rewind, save_checkpoint
from evalkit.gan.minibatches import DISCRIMINATOR, GENERATOR, Minibatches
from evalkit.gan.monitor import (
    Events,
    Metrics,
    detect_collapse,
    diversity,
    nearest_sample_distance,
    sample,
    write_sample_grid,
    write_sorted_grid,
)
from evalkit.gan.recipes import TrainOptions
from evalkit.gan.run_dir import (
    checkpoint_before,
    checkpoints,
    d_updates_of,
    latest_checkpoint,
    prune_checkpoints,
    remove_checkpoints_after,
)
from evalkit.gan.steps import average_step, discriminator_step, generator_step
from evalkit.runtime import ALONE, Ranks, arithmetic

Probe = Callable[[Path], object]  # is called with a checkpoint, in one process

_AGREE_EVERY = 10  # D updates after which several processes agree on whether to stop or save: each time costs a wait
_MAX_REWINDS = 3  # a run that collapses again and again needs a person
_DIVERSITY_SAMPLES, _DIVERSITY_SEED = 64, 20151120

logger = logging.getLogger(__name__)


class Trainer:
    """Trains from a state to the recipe's number of D updates.

    Args:
        run: the run's folder.
        precision: arithmetic of the convolutions.
        made_from: what the checkpoints' manifests record as their origin.
        ranks: the processes that share each minibatch.
        probe: called with a checkpoint every `probe_updates` D updates, beginning with the initial weights.
    """

    def __init__(
        self,
        run: Path,
        state: TrainingState,
        minibatches: Minibatches,
        options: TrainOptions,
        *,
        precision: str,
        made_from: dict[str, Any],
        ranks: Ranks = ALONE,
        probe: Probe | None = None,
        probe_updates: int = 1,
    ):
        self.path, self.state, self.minibatches, self.options = run, state, minibatches, options
        self.precision, self.made_from, self.ranks = precision, made_from, ranks
        self.probe, self.probe_updates = probe, probe_updates
        minibatches.rewinds = state.rewinds
        self._saved_at, self._saved_minibatches = time.monotonic(), state.minibatches if checkpoints(run) else -1
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
        self._probe_first()
        with stop_signals() as stop, self._progress_bar() as bar:
            while state.minibatches < end and not self._any_rank(stop.is_set()):
                before = state.d_updates
                self.step(state.minibatches)
                state.minibatches += 1
                if state.d_updates == before:
                    continue
                bar.update()
                if state.d_updates % self.options.log_updates == 0 and self._log(bar):
                    bar.update(state.d_updates - bar.n)
                elif self._checkpoint_is_due():
                    self.save()
            stopped = state.minibatches < end
        if self._saved_minibatches != state.minibatches:
            self.save()
        if stopped:
            raise EvalkitError(
                f"stopped after {state.d_updates} of {recipe.d_updates} D updates, checkpoint written; "
                "run the same command to resume"
            )
        return latest_checkpoint(self.path)

    def step(self, t: int) -> None:
        """Trains on minibatch t: one update of the network whose turn it is, or of both."""
        _set_learning_rate(self.state)
        alternate = self.state.recipe.schedule == "alternate"
        with arithmetic(self.precision, self.minibatches.device):
            if not alternate or t % 2 == 0:  # G first [release]
                self._generator_step(t)
            if not alternate or t % 2 == 1:
                self._discriminator_step(t)

    def _generator_step(self, t: int) -> None:
        state, batches = self.state, self.minibatches
        loss = generator_step(
            state.generator,
            state.discriminator,
            state.g_optimizer,
            batches.z(t, GENERATOR),
            classes=batches.classes(t),
            noise=batches.noise(t, 1),
            ranks=self.ranks,
        )
        self.metrics.add_generator(loss)
        if state.g_average:
            average_step(state.g_average, state.generator, state.recipe.g_ema)

    def _discriminator_step(self, t: int) -> None:
        state, batches = self.state, self.minibatches
        losses = discriminator_step(
            state.generator,
            state.discriminator,
            state.d_optimizer,
            batches.real(t),
            batches.z(t, DISCRIMINATOR),
            classes=batches.classes(t),
            noise=batches.noise(t, 2),
            ranks=self.ranks,
        )
        self.metrics.add_discriminator(*losses)
        if state.d_average:
            average_step(state.d_average, state.discriminator, state.recipe.d_ema)

    def _any_rank(self, flag: bool) -> bool:
        """Whether the flag is set on any rank; several ranks compare at some updates only, all at the same ones."""
        if self.ranks.count == 1:
            return flag
        return self.state.minibatches % (2 * _AGREE_EVERY) == 0 and any(self.ranks.objects(flag))

    def _progress_bar(self) -> tqdm:
        total, done = self.state.recipe.d_updates, self.state.d_updates
        return tqdm(total=total, initial=done, unit="D update", disable=None if self.ranks.writes else True)

    def _log(self, bar: tqdm) -> bool:
        """Writes a line of metrics and handles a collapse; True if the run was rewound."""
        row = self.metrics.log(self.state, self.sample_metrics() if self.ranks.writes else {})
        bar.set_postfix({"D": round(row["d_loss"], 3), "G": round(row["g_loss"], 3)})
        if self._events:
            self._events.add(row, self.state.d_updates)
        collapse = self.ranks.objects(detect_collapse(self.metrics.rows))[0]
        if collapse:
            self.handle_collapse(*collapse)
        return bool(collapse)

    def sample_metrics(self) -> dict[str, float]:
        """The diversity of the samples; once per epoch also writes a grid of them and adds the nnd, if asked for."""
        state, recipe = self.state, self.state.recipe
        samples = sample(state.sampler, recipe, _DIVERSITY_SAMPLES, seed=_DIVERSITY_SEED)
        metrics = {"diversity": diversity(samples)}
        per_line = self.options.log_updates * (2 if recipe.schedule == "alternate" else 1)
        ends = state.minibatches, state.minibatches - per_line
        epoch, epoch_before = (t // self.minibatches.batches_per_epoch for t in ends)
        if epoch > epoch_before:
            write_sample_grid(self.path / "samples" / f"d-{state.d_updates:08d}.png", state.sampler, recipe)
            if self.options.nnd_samples:
                images, count = self.minibatches.images, self.options.nnd_samples
                metrics["nnd"] = nearest_sample_distance(state.sampler, recipe, images, samples=count)
        return metrics

    def handle_collapse(self, what: str, since: int) -> None:
        """Rewinds to before the collapse, or raises EvalkitError, as the options say."""
        state = self.state
        message = f"{what} since {since} D updates"
        if self.options.on_collapse == "stop":
            raise EvalkitError(
                f"{message}; the checkpoints are kept; try --on-collapse rewind, or a smaller --set lr=…"
            )
        if state.rewinds >= _MAX_REWINDS:
            raise EvalkitError(f"{message}, after {state.rewinds} rewinds; try another recipe, or a smaller --set lr=…")
        target = self.ranks.objects(checkpoint_before(self.path, since))[0]
        rewind(state, target)
        self.ranks.wait()
        if self.ranks.writes:
            remove_checkpoints_after(self.path, target)
            logger.warning("%s: back to %s with other minibatches (rewind %d)", message, target.name, state.rewinds)
        self.minibatches.rewinds = state.rewinds
        self._saved_at, self._saved_minibatches = time.monotonic(), state.minibatches
        self._open_logs()

    def _checkpoint_is_due(self) -> bool:
        updates, options = self.state.d_updates, self.options
        intervals = (options.checkpoint_updates, options.milestones, self.probe_updates if self.probe else 0)
        if any(interval and updates % interval == 0 for interval in intervals):
            return True
        return self._any_rank(time.monotonic() - self._saved_at > 60 * options.checkpoint_minutes)

    def save(self) -> None:
        """Writes a checkpoint and grids of samples, unless the losses are no longer finite; then calls the probe."""
        self.metrics.check_finite(self.state)
        if self.ranks.writes:
            self._write_grids()
            self.metrics.sync()
            save_checkpoint(self.path, self.state, made_from=self.made_from)
            prune_checkpoints(self.path, keep=self.options.keep, milestones=self.options.milestones)
            self._probe_last()
        self.ranks.wait()
        self._saved_at, self._saved_minibatches = time.monotonic(), self.state.minibatches

    def _write_grids(self) -> None:
        state, name = self.state, f"d-{self.state.d_updates:08d}.png"
        write_sample_grid(self.path / "samples" / name, state.sampler, state.recipe)
        write_sorted_grid(self.path / "sorted" / name, state.sampler, state.discriminator, state.recipe)

    def _probe_first(self) -> None:
        """Calls the probe with the initial weights, or with what a killed run had saved but not probed."""
        if self.probe and self.ranks.objects(not checkpoints(self.path))[0]:
            self.save()
        else:
            self._probe_last()

    def _probe_last(self) -> None:
        """Calls the probe with the last checkpoint if it is one to be probed; the probe knows what it has measured."""
        paths = checkpoints(self.path)
        if self.probe and paths and self.ranks.writes and d_updates_of(paths[-1]) % self.probe_updates == 0:
            self.probe(paths[-1])


def _set_learning_rate(state: TrainingState) -> None:
    recipe = state.recipe
    done = state.d_updates / recipe.d_updates
    factor = 1.0 if done < recipe.lr_decay_start else (1 - done) / (1 - recipe.lr_decay_start)
    for optimizer in (state.g_optimizer, state.d_optimizer):
        optimizer.param_groups[0]["lr"] = recipe.lr * factor


@contextmanager
def stop_signals() -> Iterator[threading.Event]:
    """An event that SIGINT and SIGTERM set; a second signal ends the process at once.

    The loop finishes its update, writes a checkpoint and stops.
    """
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
