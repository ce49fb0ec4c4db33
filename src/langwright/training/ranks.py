"""The processes that share a run: PyTorch's distributed behind one small face."""

import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch import distributed as dist
from torch.nn.parallel import DistributedDataParallel

from langwright.base.errors import RankError, UserError

Parallel = Literal["none", "ddp"]
T = TypeVar("T")
PATIENCE = timedelta(days=7)
"""How long ranks wait for the first one, which measures and writes alone."""


@dataclass(frozen=True)
class Ranks:
    """This process among those of a run. A process by itself is rank 0 of 1, and every method costs nothing.

    Args:
        rank: the number of this process; the first one writes all files and talks to the user.
        world: how many there are.
    """

    rank: int = 0
    world: int = 1

    def sum(self, values: Tensor) -> Tensor:
        """The sum of a tensor over ranks."""
        if self.world > 1:
            dist.all_reduce(values := values.clone())
        return values

    def agree(self, value: T) -> T:
        """The value of the first rank."""
        box = [value]
        if self.world > 1:
            dist.broadcast_object_list(box)
        return box[0]

    def collect(self, value: T) -> list[T]:
        """The values of all ranks, in order."""
        found: list[Any] = [value] * self.world
        if self.world > 1:
            dist.all_gather_object(found, value)
        return found

    def gather(self, rows: Tensor) -> Tensor:
        """The rows of all ranks, as many of each, through which gradients flow: for terms that couple rows."""
        if self.world == 1:
            return rows
        from torch.distributed.nn.functional import all_gather  # slow to import

        return torch.cat(all_gather(rows))

    def shard(self, module: nn.Module) -> nn.Module:
        """The module with gradients that are means over ranks."""
        if self.world == 1:
            return module
        # Searching for unused parameters also keeps the buckets of gradients as they are, so that sums over ranks have
        # the same order after a resume; experts without a token and frozen layers need it anyway.
        with warnings.catch_warnings(action="ignore", category=FutureWarning):  # its new name came after torch 2.10
            return DistributedDataParallel(module, broadcast_buffers=False, find_unused_parameters=True)

    def apart(self, module: nn.Module) -> AbstractContextManager[None]:
        """While the block runs, gradients of a sharded module stay with their rank, to be summed by a later one."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    @contextmanager
    def first(self) -> Iterator[None]:
        """The first rank does what the block says before the others do."""
        if self.rank:
            dist.barrier()
        yield
        if self.world > 1 and not self.rank:
            dist.barrier()


@contextmanager
def open_ranks(parallel: Parallel) -> Iterator[Ranks]:
    """The ranks of a command that `torchrun` started.

    A failure of one rank ends all; the first that fails says why.
    """
    spelt = os.environ.get("WORLD_SIZE", "1")
    if not spelt.isdecimal():
        raise UserError(f"WORLD_SIZE={spelt} in the environment is no number of processes; unset it")
    world = int(spelt)
    if parallel == "none":
        if world > 1:
            raise UserError(f"torchrun started {world} processes of this command; --parallel ddp lets them share a run")
        yield Ranks()
        return
    if "RANK" not in os.environ:
        raise UserError("--parallel ddp: start it with torchrun --nproc-per-node N -m langwright ...")
    dist.init_process_group("gloo", timeout=PATIENCE)
    try:
        yield Ranks(dist.get_rank(), world)
        dist.barrier()  # torchrun stops the others when one has left with an exit code
    except (UserError, OSError, RuntimeError) as error:
        lost = isinstance(error, RuntimeError)
        if lost and "gloo" not in str(error):
            raise
        why = "another process of this run has ended; its own message says why" if lost else str(error)
        raise RankError(why if _is_first_to_fail() else "") from error
    finally:
        dist.destroy_process_group()


def _is_first_to_fail() -> bool:
    """Whether no other rank has failed before; they ask the store through which they found each other."""
    try:
        return dist.distributed_c10d._get_default_store().add("failures", 1) == 1
    except RuntimeError:  # its owner has gone
        return False
