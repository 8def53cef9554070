"""The one loop of every training: steps, the order of images, records, and the checkpoint to go on from."""

import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Iterable
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor

from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint

__all__ = ["Loop", "Steps"]

_CHECKPOINT_SECONDS = 20.0


class Steps(ABC):
    """One kind of training: what a step does, what a record says, and what of it has to survive a kill."""

    def begin_epoch(self, per_epoch: int, room: int) -> int:
        """Called before each epoch; how many it has gone ahead by itself, of ``per_epoch`` steps, under ``room``."""
        return 0

    @abstractmethod
    def advance(self, step: int, chosen: Tensor, generator: torch.Generator) -> None:
        """Step number ``step`` on the images of these numbers; whatever is random is drawn from the generator.

        Raises:
            ValueError: If the training has diverged; ``record`` may say so too.
        """

    def end_epoch(self, epoch: int) -> None:  # noqa: B027
        """Called after the last step of each epoch; the first is 1."""

    @abstractmethod
    def record(self, step: int, per_epoch: int) -> dict:
        """The columns of a record beside the step."""

    @abstractmethod
    def state(self) -> dict:
        """All that the next step depends on, as ``save_checkpoint`` takes it."""

    @abstractmethod
    def restore(self, state: dict) -> None:
        """Become what ``state`` returned."""


class Loop:
    """A training under way. Every image once per epoch, in a new order; after a kill it goes on to the same bits.

    Args:
        steps: What to do.
        n: Number of images.
        batch: Images per step; the last batch of an epoch may be smaller.
        seed: Of the generator of the order and of all else that is random.
        due: Steps after which to record; 0 is before training.
        path: File for the state, saved every 20 seconds after a step; None keeps none.
        device: Where the numbers of the chosen images are wanted.
    """

    def __init__(
        self, steps: Steps, n: int, batch: int, seed: int, due: Iterable[int], path: Path | None,
        device: torch.device = torch.device("cpu"),  # noqa: B008
    ):  # fmt: skip
        self.steps, self.n, self.batch, self.due, self.path, self.device = steps, n, batch, set(due), path, device
        self.per_epoch = -(-n // batch)
        self.generator = torch.Generator().manual_seed(seed)
        self.step = 0
        self.order = torch.empty(0, dtype=torch.long)
        self.history: list[dict] = []
        self.saved = time.monotonic()
        if path is not None and (state := load_checkpoint(path)) is not None:
            self._restore(state)

    def run(self, until: int) -> pd.DataFrame:
        """All steps up to number ``until``; the records, one row each."""
        if self.step == 0 and 0 in self.due:
            self._record()
        while self.step < until:
            at = self.step % self.per_epoch
            if at == 0:
                self._begin_epoch(until)
            self.steps.advance(self.step, self.order[at * self.batch : (at + 1) * self.batch], self.generator)
            self.step += 1
            if self.step % self.per_epoch == 0:
                self.steps.end_epoch(self.step // self.per_epoch)
            if self.step in self.due:
                self._record()
            self._save_sometimes()
        return pd.DataFrame(self.history)

    def _begin_epoch(self, until: int) -> None:
        room = min([due for due in self.due if due > self.step] + [until]) - self.step
        ahead = self.steps.begin_epoch(self.per_epoch, room)
        self.step += ahead * self.per_epoch
        for _ in range(ahead + 1):  # the order of the later epochs does not depend on going ahead
            order = torch.randperm(self.n, generator=self.generator)
        self.order = order.to(self.device)

    def _record(self) -> None:
        self.history.append({"step": self.step} | self.steps.record(self.step, self.per_epoch))

    def _save_sometimes(self) -> None:
        if self.path is None or time.monotonic() - self.saved <= _CHECKPOINT_SECONDS:
            return
        state = {"step": self.step, "history": self.history, "order": self.order, "steps": self.steps.state()}
        try:
            save_checkpoint(self.path, state | {"generator": self.generator.get_state()})
        except OSError as error:  # the training is worth more than its checkpoint
            warnings.warn(f"no checkpoint: {error.strerror}; the training goes on", stacklevel=2)
        self.saved = time.monotonic()

    def _restore(self, state: dict) -> None:
        self.step, self.history, self.order = state["step"], state["history"], state["order"].to(self.device)
        self.generator.set_state(state["generator"])
        self.steps.restore(state["steps"])
