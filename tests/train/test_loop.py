"""The loop by itself: orders, records and what survives a kill, with steps that only note what they are given."""

import itertools

import pytest
import torch

from spatialkit.train import loop
from spatialkit.train.checkpoints import save_checkpoint
from spatialkit.train.loop import Loop, Steps


class Noting(Steps):
    """Goes ahead by the epochs given, ends by a kill at a step, and draws a number in each step."""

    def __init__(self, ahead=(), kill=None):
        self.ahead, self.kill, self.rooms, self.epochs, self.taken, self.drawn = list(ahead), kill, [], [], [], []

    def begin_epoch(self, per_epoch, room):
        self.rooms.append(room)
        return self.ahead.pop(0) if self.ahead else 0

    def advance(self, step, chosen, generator):
        if step == self.kill:
            raise KeyboardInterrupt
        self.taken.append(chosen.tolist())
        self.drawn.append(int(torch.randint(1000, (), generator=generator)))

    def end_epoch(self, epoch):
        self.epochs.append(epoch)

    def record(self, step, per_epoch):
        return {"epoch": step / per_epoch, "so far": len(self.taken)}

    def state(self):
        return {"taken": self.taken, "drawn": self.drawn, "epochs": self.epochs}

    def restore(self, state):
        self.taken, self.drawn, self.epochs = state["taken"], state["drawn"], state["epochs"]


@pytest.mark.parametrize(("n", "batch"), [(10, 4), (8, 4), (7, 9)])
def test_every_epoch_has_each_image_once_in_an_order_of_its_own(n, batch):
    steps = Noting()
    per_epoch = -(-n // batch)
    history = Loop(steps, n, batch, 7, [0, 1, 3 * per_epoch], None).run(3 * per_epoch)
    epochs = [[*itertools.chain(*steps.taken[i * per_epoch : (i + 1) * per_epoch])] for i in range(3)]
    assert all(sorted(order) == list(range(n)) for order in epochs) and len(set(map(tuple, epochs))) == 3
    assert [len(chosen) for chosen in steps.taken[:per_epoch]] == [batch] * (n // batch) + [n % batch] * (n % batch > 0)
    generator = torch.Generator().manual_seed(7)  # one generator for orders and steps
    for order in epochs:
        assert torch.randperm(n, generator=generator).tolist() == order
        torch.randint(1000, (per_epoch,), generator=generator)
    assert history["step"].tolist() == sorted({0, 1, 3 * per_epoch}) and steps.epochs == [1, 2, 3]


def test_a_training_may_end_within_an_epoch():
    steps = Noting()
    Loop(steps, 10, 4, 0, [], None).run(4)
    assert len(steps.taken) == 4 and steps.epochs == [1] and steps.rooms == [4, 1]


def test_going_ahead_leaves_the_orders_of_later_epochs_and_the_room_says_how_far():
    plain, ahead = Noting(), Noting(ahead=[0, 2])
    for steps in (plain, ahead):
        steps.drawn = None
        steps.advance = lambda step, chosen, generator, steps=steps: steps.taken.append((step, chosen.tolist()))
        Loop(steps, 6, 2, 0, [10, 14], None).run(18)
    assert ahead.taken == plain.taken[:3] + plain.taken[9:]
    assert ahead.rooms == [
        10,
        7,
        2,
        3,
    ]  # steps to the next record or to the end, at the start of each epoch that was run
    assert plain.rooms == [10, 7, 4, 1, 2, 3]


@pytest.mark.parametrize("kill", range(1, 8))
def test_it_goes_on_from_any_step(tmp_path, monkeypatch, kill):
    monkeypatch.setattr(loop, "_CHECKPOINT_SECONDS", -1.0)
    options = {"n": 10, "batch": 4, "seed": 2, "due": [0, 2, 3, 7, 8]}
    whole, killed, resumed = Noting(), Noting(kill=kill), Noting()
    expected = Loop(whole, **options, path=None).run(8)
    with pytest.raises(KeyboardInterrupt):
        Loop(killed, **options, path=tmp_path / "x").run(8)
    assert Loop(resumed, **options, path=tmp_path / "x").run(8).equals(expected)
    assert (resumed.taken, resumed.drawn, resumed.epochs) == (whole.taken, whole.drawn, whole.epochs)


def test_the_state_is_saved_when_it_is_time(tmp_path, monkeypatch):
    seconds, saves = iter(range(0, 1000, 9)), []
    monkeypatch.setattr(loop.time, "monotonic", lambda: next(seconds))
    monkeypatch.setattr(loop, "save_checkpoint", lambda path, state: saves.append(state["step"]))
    Loop(Noting(), 100, 10, 0, [], tmp_path / "x").run(10)
    assert saves == [3, 6, 9]  # 27 s after the last one, which is the first of 9, 18, 27 beyond 20


def test_a_damaged_checkpoint_begins_anew(tmp_path):
    save_checkpoint(tmp_path / "x", {"step": 3})
    (tmp_path / "x").write_bytes((tmp_path / "x").read_bytes()[:-1])
    steps = Noting()
    with pytest.warns(UserWarning, match="is damaged: set aside"):
        Loop(steps, 4, 2, 0, [], tmp_path / "x").run(4)
    assert len(steps.taken) == 4
