"""TensorBoard events, for those who have it (`pip install evalkit[tensorboard]`)."""

import warnings
from collections.abc import Mapping
from pathlib import Path

from evalkit.errors import EvalkitError


class Events:
    """Writes numbers as TensorBoard scalars to RUN/events; what a resumed run had logged beyond `from_step` is hidden.

    Raises:
        EvalkitError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, *, from_step: int):
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of TensorBoard's own imports
                from torch.utils.tensorboard import SummaryWriter
        except ImportError:
            raise EvalkitError(
                "TensorBoard is not installed; pip install 'evalkit[tensorboard]', or train without --tensorboard"
            ) from None
        self._writer = SummaryWriter(str(folder), purge_step=from_step)

    def add(self, values: Mapping[str, float], step: int) -> None:
        """Adds a point to the curve of each name."""
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)
        self._writer.flush()

    def close(self) -> None:
        self._writer.close()
