"""Alarms: signs in metrics.csv that a run has gone wrong for good."""

from collections.abc import Sequence

_LINES = 10  # in a row: a bad moment passes, a broken run does not
_SATURATED_LOSS = 2e-3  # of D, BCE or hinge: real and fake told apart with certainty leaves G hardly a gradient
_COLLAPSED_DIVERSITY = 0.1  # 99 % of the variance is in the mean picture; natural pictures have 0.99


def alarm(rows: Sequence[dict[str, float]]) -> tuple[str, int] | None:
    """What is wrong according to the last lines of metrics.csv, and since how many D updates; None if nothing is.

    Args:
        rows: the lines, oldest first, with at least `d_updates`, `d_loss` and `diversity`.
    """
    last = list(rows[-_LINES:])
    if len(last) < _LINES:
        return None
    since = int(last[0]["d_updates"])
    if all(row["d_loss"] < _SATURATED_LOSS for row in last):
        return f"D tells all samples from real pictures (its loss is below {_SATURATED_LOSS})", since
    if all(row["diversity"] < _COLLAPSED_DIVERSITY for row in last):
        return f"samples have collapsed (their diversity is below {_COLLAPSED_DIVERSITY})", since
    return None
