"""Joining the processes of torchrun: each on its own GPU, or one clear line."""

import pytest
import torch
import torch.distributed as dist

from evalkit.errors import EvalkitError
from evalkit.runtime import joined


def test_each_rank_takes_its_gpu_before_it_joins(monkeypatch):
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1")):
        monkeypatch.setenv(name, value)
    taken = []

    def refuse(backend, **settings):
        taken.append(backend)
        raise RuntimeError("no such address\nand a trace")

    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    monkeypatch.setattr(dist, "init_process_group", refuse)
    with pytest.raises(EvalkitError, match=r"cannot be joined \(no such address\); use torchrun"):
        with joined(torch.device("cuda")):
            pass
    assert taken == [torch.device("cuda", 1), "nccl"]  # in this order: NCCL sends Python values by the current GPU
