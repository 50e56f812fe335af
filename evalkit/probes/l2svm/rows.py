"""Feature rows in chunks ready to multiply, from memory or a file: all that the solvers see of features.

Features may be stored as float16 (half the bytes; moves the optimum by about 2e-6 of the objective); arithmetic is
float32 whatever the storage, so chunks are converted as they pass, in pieces that stay in the cache.
"""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

from evalkit.probes.l2svm.filerows import FileRows
from evalkit.probes.l2svm.threads import single_threads

_CONVERTED_BYTES = 10 << 20  # a converted chunk: 90 rows of 28,672; one of 58 MB leaves the cache before it is used
_VIEW_BYTES = 512 << 20  # a chunk that needs no conversion is only a view
_DEVICE_BYTES = 2 << 30  # on an accelerator launches cost more than memory
_MOST_ROWS = 256  # that a converted chunk needs for a product with many columns

Work = Callable[[int, slice, Tensor], None]


class Rows:
    """Rows of a feature matrix, in memory as far as they fit, the rest in a file.

    Args:
        stored: (n, D) tensor of the first rows, on the device that computes.
        streamed: the rows after those, or None.

    Attributes:
        count, features: N and D.
        dtype: of the arithmetic, float32 (float64 when the rows are float64).
    """

    def __init__(self, stored: Tensor, streamed: FileRows | None = None) -> None:
        self.stored = stored
        self.streamed = streamed
        self.count = len(stored) + (len(streamed.rows) if streamed else 0)
        self.features = stored.shape[1]
        self.device = stored.device
        self.dtype = torch.float64 if stored.dtype == torch.float64 else torch.float32

    @property
    def workers(self) -> int:
        """Threads of `for_each`: all of torch's where rows are converted, else one, whose products use them all."""
        return torch.get_num_threads() if self._converts(self.stored) and self.device.type == "cpu" else 1

    def for_each(self, work: Work, columns: int = 1) -> None:
        """Calls work(worker, where, chunk) for all rows, by `chunks` of each worker's own.

        A worker converts what it multiplies and finds it in its cache; converting and multiplying on all threads in
        turn went at half the rate with 10 columns, and at four fifths with 70.
        """
        count = self.workers
        if count == 1:
            for where, chunk in self.chunks(columns):
                work(0, where, chunk)
            return

        def share(worker: int, stored: Tensor, first: int) -> None:
            for where, chunk in self._converted(stored, first, columns):
                work(worker, where, chunk)

        with single_threads(count) as pool:
            for first, stored in self._stretches():
                size = -(-len(stored) // count)
                starts = range(0, len(stored), size)
                list(pool.map(share, range(count), stored.split(size), [first + start for start in starts]))

    def chunks(self, columns: int = 1) -> Iterator[tuple[slice, Tensor]]:
        """Consecutive rows in the type of the arithmetic: (where, (n, D)), each valid until the next is asked for.

        Chunks hold `columns` rows up to some number, so that a product with that many reads as much of one as of the
        other.
        """
        for first, stored in self._stretches():
            yield from self._converted(stored, first, columns)

    def _stretches(self) -> Iterator[tuple[int, Tensor]]:
        """The number of the first row, and consecutive rows as they are stored or read."""
        if len(self.stored):
            yield 0, self.stored
        if self.streamed is not None:
            first = len(self.stored)
            for slab in self.streamed.slabs():
                yield first, slab
                first += len(slab)

    def _converts(self, stored: Tensor) -> bool:
        return stored.dtype != self.dtype or stored.device != self.device

    def _converted(self, stored: Tensor, first: int, columns: int) -> Iterator[tuple[slice, Tensor]]:
        convert = self._converts(stored)
        limit = _CONVERTED_BYTES if convert else _VIEW_BYTES
        limit = _DEVICE_BYTES if self.device.type != "cpu" else limit
        step = max(1, min(columns, _MOST_ROWS), limit // (4 * self.features))
        shape = (min(step, len(stored)), self.features)
        buffer = torch.empty(shape, dtype=self.dtype, device=self.device) if convert else None
        for start in range(0, len(stored), step):
            part = stored[start : start + step]
            if buffer is not None:
                part = buffer[: len(part)].copy_(part)
            yield slice(first + start, first + start + len(part)), part

    def take(self, index: Tensor) -> Tensor:
        """The rows with these sorted numbers as they are stored, (len(index), D) on the device."""
        if self.streamed is None and len(index) == self.count:
            return self.stored
        kept = index[index < len(self.stored)]
        chosen = self.stored[kept]
        if self.streamed is None:
            return chosen
        rest = (index[len(kept) :] - len(self.stored)).cpu().numpy()
        return torch.cat([chosen, self.streamed.read(self.streamed.rows[rest]).to(self.device)])
