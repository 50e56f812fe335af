"""By how many processes a run was trained, and how: what besides recipe, seed and pictures decides the weights."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True)
class Stretch:
    """A part of a training, up to the next stretch or the end.

    Attributes:
        from_d_updates: D updates before it.
        processes: that shared each minibatch; with more than one, each normalises its share by itself ...
        sync_batch_norm: ... unless statistics are over all of them.
        precision: float32 or bfloat16.
    """

    from_d_updates: int
    processes: int
    sync_batch_norm: bool
    precision: str

    def as_dict(self) -> dict[str, Any]:
        """The stretch as JSON values."""
        return asdict(self)


def continued(history: Sequence[Stretch], now: Stretch) -> tuple[Stretch, ...]:
    """The history of a training that goes on as `now` says: a new stretch only where something differs."""
    before = tuple(stretch for stretch in history if stretch.from_d_updates < now.from_d_updates)
    same = before and before[-1].as_dict() | {"from_d_updates": now.from_d_updates} == now.as_dict()
    return before if same else (*before, now)
