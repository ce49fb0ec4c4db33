"""Training checkpoints: whole or not there, checked when read, the newest good one used."""

import hashlib
import json
import re
import shutil
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from langwright.base.errors import UserError
from langwright.base.files import atomic_folder, check_files, read_object, read_record, sha256_file, write_json
from langwright.data.supply import StatefulBatches, StepBatches
from langwright.models.folder import RECORD
from langwright.models.weights import read_tensors, write_tensors
from langwright.planning.machine import DTYPES
from langwright.training.learner import Learner
from langwright.training.progress import Progress

FORMAT_VERSION = 1
STATE, SUPPLY = "state.json", "supply.safetensors"
RENAMED = r"\.(side|lead)\."
"""Parts of parameter names in older checkpoints that are `.adapter.` now."""


_PROGRESS = {field.name for field in fields(Progress)}
HASHED = ("base", "corpus", "tokenizer_fingerprint")
"""Of an identity; compared last, for what else differs says more."""


@dataclass(frozen=True)
class Checkpoints:
    """The folder OUT/checkpoints of one run.

    Args:
        folder: its path.
        identity: what must not change between a run and its resumption (recipe, corpus, dtype, threads).
        keep: how many checkpoints.
        defaults: what a field means that an older version did not write into its identity yet.
        names: what the user called that of which the identity holds a hash; for messages.
    """

    folder: Path
    identity: dict[str, Any]
    keep: int
    defaults: Mapping[str, Any] = field(default_factory=dict)
    names: Mapping[str, str] = field(default_factory=dict)

    def save(self, learner: Learner, batches: StepBatches | StatefulBatches, progress: Progress) -> None:
        """Write a checkpoint beside and rename it into place; then drop the oldest beyond `keep`.

        All ranks take part, for each has random states of its own; the first one writes.
        """
        random = _of_ranks(learner.ranks.collect(_random_states(learner.device)))
        supply = batches.state() if isinstance(batches, StatefulBatches) else {}
        supplies = _of_ranks(learner.ranks.collect(supply))
        if learner.ranks.rank:
            return
        with atomic_folder(self.folder / f"step-{progress.step:08d}") as folder:
            write_tensors(folder / "masters.safetensors", learner.masters.named)
            write_tensors(folder / "optimizer.safetensors", learner.tensors())
            write_tensors(folder / "random.safetensors", random)
            if supplies:
                write_tensors(folder / SUPPLY, supplies)
            checksums = {path.name: sha256_file(path) for path in sorted(folder.iterdir())}
            state = {"format_version": FORMAT_VERSION, "identity": self.identity, "names": dict(self.names)}
            state |= {"checksums": checksums, "world": learner.ranks.world, **vars(progress)}
            write_json(folder / STATE, {**state, "checksum": _checksum(state)})
        for old in self._folders()[: -self.keep]:
            shutil.rmtree(old)

    def load(
        self, learner: Learner, batches: StepBatches | StatefulBatches, free: Collection[str] = ()
    ) -> tuple[Progress, list[str]] | None:
        """Restore the newest whole checkpoint; also the complaints about broken newer ones. None when there is none.

        Args:
            learner: takes up weights and the optimizers' memory.
            batches: take up their state, where they have one.
            free: names of the identity that may differ this time.

        Raises:
            UserError: naming the field that differs from what the run began with, or when every checkpoint is broken.
        """
        ranks = learner.ranks
        if not ranks.rank:
            for partial in self.folder.glob(".step-*.partial"):
                shutil.rmtree(partial)  # what a killed process left; the run's folder is ours alone
        complaints: list[str] = []
        for folder in reversed(self._folders()):
            try:
                state = _read_state(folder)
            except UserError as error:
                complaints.append(str(error))
                continue
            world = state.get("world", 1)
            if world != ranks.world:  # the same run, to rounding: how many threads each has is no longer the question
                free = {*free, "threads"}
            self._compare(state["identity"], state.get("names", {}), folder, free)
            learner.load(_read_named(folder / "masters.safetensors"), _read_named(folder / "optimizer.safetensors"))
            random = _of_rank(read_tensors(folder / "random.safetensors"), ranks.rank)
            if random:
                _restore_random_states(random, learner.device)
            if isinstance(batches, StatefulBatches):
                if world != ranks.world:
                    raise UserError(f"{folder}: its data has a state for {world} ranks; go on with as many")
                kept = read_tensors(folder / SUPPLY) if (folder / SUPPLY).exists() else {}
                batches.load(_of_rank(kept, ranks.rank))
            return Progress(**{name: state[name] for name in _PROGRESS & state.keys()}), complaints
        if complaints:
            raise UserError(
                f"no whole checkpoint is left in {self.folder}: {complaints[0]}; move the folder away to start afresh"
            )
        return None

    def save_best(self, learner: Learner, step: int) -> None:
        """Keep the weights of an evaluation that is the best so far, and some of those before it.

        A run that is resumed may need an earlier one, for it goes back to an earlier step.
        """
        if not learner.ranks.rank:
            self.folder.mkdir(parents=True, exist_ok=True)
            write_tensors(self._best(step), learner.masters.named)
            for old in sorted(self.folder.glob(self._best(0).name.replace("0" * 8, "*")))[: -self.keep - 1]:
                old.unlink()

    def load_best(self, learner: Learner, step: int) -> None:
        """Put the weights of an evaluation back."""
        learner.masters.load(_read_named(self._best(step)))

    def _best(self, step: int) -> Path:
        return self.folder / f"best-{step:08d}.safetensors"

    def _folders(self) -> list[Path]:
        return sorted(self.folder.glob("step-????????")) if self.folder.is_dir() else []

    def _compare(self, found: dict[str, Any], names: dict[str, str], folder: Path, free: Collection[str]) -> None:
        identity = json.loads(json.dumps(self.identity))
        for name in sorted({*found, *identity} - set(free), key=lambda name: (name in HASHED, name)):
            before, now = found.get(name, self.defaults.get(name)), identity.get(name)
            if before != now:
                told = f"{name} = {before!r}, not {now!r}"
                if name in self.names:  # a hash, which alone says little
                    was, now_is = names.get(name, "another"), self.names[name]
                    told = f"{name} {was} (contents {str(before)[:8]}), not {now_is} (contents {str(now)[:8]})"
                raise UserError(
                    f"{folder.parents[1]}: the run here began with {told}; give that again, or choose another folder"
                )


def decided_dtype(folder: Path, dtype: str) -> str:
    """The dtype as given, or for "auto" what the run or model in a folder was computed in, if it records that.

    "auto" is decided by measuring; decided anew at each start, a busy moment would change it under a run.
    """
    if dtype != "auto":
        return dtype
    states = sorted(folder.glob(f"checkpoints/step-????????/{STATE}"), reverse=True)
    for path in filter(Path.exists, [*states, folder / RECORD]):
        with suppress(UserError):  # a broken one is named where it is needed
            record = read_object(path, "the record of a run")
            told = record.get("identity", record)
            if isinstance(told, dict) and told.get("dtype") in DTYPES:
                return str(told["dtype"])
    return dtype


def _read_named(path: Path) -> dict[str, Tensor]:
    return {re.sub(RENAMED, ".adapter.", name): tensor for name, tensor in read_tensors(path).items()}


def _read_state(folder: Path) -> dict[str, Any]:
    """The state of a checkpoint whose files are all whole; UserError naming the one that is not."""
    state = read_record(folder / STATE, "the state of the checkpoint", FORMAT_VERSION)
    needed = {"identity", "checksums"} | _PROGRESS - {"skips", "best", "stale", "ended"}
    own = state.pop("checksum", None)
    if not needed <= state.keys() or (own is not None and own != _checksum(state)):
        raise UserError(f"{folder / STATE}: broken, its content is not what was written")
    check_files(folder / STATE, state)
    return state


def _checksum(state: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _of_ranks(states: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    """The tensors of all ranks; those of the first one have their names alone, others begin with their rank."""
    return {_prefix(rank) + name: tensor for rank, state in enumerate(states) for name, tensor in state.items()}


def _of_rank(tensors: dict[str, Tensor], rank: int) -> dict[str, Tensor]:
    """Those of one rank."""
    own = {name: tensor for name, tensor in tensors.items() if name.startswith("rank ") == (rank > 0)}
    return {name.removeprefix(_prefix(rank)): own[name] for name in own if name.startswith(_prefix(rank))}


def _prefix(rank: int) -> str:
    return f"rank {rank}: " if rank else ""


def _random_states(device: torch.device) -> dict[str, Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if device.type in ("cuda", "mps"):
        states[device.type] = getattr(torch, device.type).get_rng_state()
    return states


def _restore_random_states(states: dict[str, Tensor], device: torch.device) -> None:
    torch.set_rng_state(states["cpu"])
    if device.type in states and device.type != "cpu":
        getattr(torch, device.type).set_rng_state(states[device.type])
