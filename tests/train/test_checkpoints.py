"""Checkpoints come back whole or not at all, and belong to one run by one code."""

import math

import pytest
import torch
from safetensors import safe_open

from spatialkit import lab
from spatialkit.lab import context, places
from spatialkit.lab.tasks import run
from spatialkit.train.checkpoints import load_checkpoint, save_checkpoint

MADE = {"code": "a", "profile": "laptop", "commit": "c", "date": "d"}


def test_tensors_and_values_come_back_to_the_bit(tmp_path):
    shared = torch.randn(4, 3)
    tensors = {
        "a": shared, "b": shared[:2], "empty": torch.empty(0), "scalar": torch.tensor(1.5),
        "bool": torch.tensor([True]), "half": torch.randn(3).bfloat16(),
        "turned": torch.randn(2, 3).T, "int": torch.arange(3),
    }  # fmt: skip
    plain = {"step": 3, "history": [{"loss": math.nan, "x": 0.1}], "name": "ü"}
    nested = {"groups": [{"lr": 0.1, "of": [shared.T, None]}], "by number": {0: torch.ones(2)}}
    save_checkpoint(tmp_path / "x.safetensors", {"tensors": tensors, **plain, **nested})
    state = load_checkpoint(tmp_path / "x.safetensors")
    back = state["tensors"]
    assert all(torch.equal(back[name], value) and back[name].dtype == value.dtype for name, value in tensors.items())
    assert state["step"] == 3 and state["name"] == "ü" and math.isnan(state["history"][0]["loss"])
    assert torch.equal(state["groups"][0]["of"][0], shared.T) and state["groups"][0]["of"][1] is None
    assert torch.equal(state["by number"]["0"], torch.ones(2))  # keys are strings
    with safe_open(tmp_path / "x.safetensors", framework="pt") as file:
        assert "tensors/half" in file.keys() and "groups/0/of/0" in file.keys()  # as others can read it
    assert load_checkpoint(tmp_path / "none.safetensors") is None


@pytest.mark.parametrize("damage", ["flip", "header", "cut", "empty", "text", "state"])
def test_a_damaged_file_is_set_aside_and_named(tmp_path, damage):
    path = tmp_path / "x.safetensors"
    save_checkpoint(path, {"a": torch.arange(100.0), "step": 3})
    content = bytearray(path.read_bytes())
    if damage == "flip":
        content[-10] ^= 1
    elif damage == "header":
        content[3] ^= 255
    elif damage == "state":
        content = bytearray(bytes(content).replace(b'step\\": 3', b'step\\": 4'))
    content = {"cut": content[:-50], "empty": b"", "text": b"no checkpoint at all, but text"}.get(damage, content)
    path.write_bytes(content)
    with pytest.warns(UserWarning, match=r"x\.safetensors is damaged: set aside as x\.safetensors\.damaged"):
        assert load_checkpoint(path) is None
    assert not path.exists() and path.with_name("x.safetensors.damaged").read_bytes() == bytes(content)


def folder_of(code="a", n=1):
    with context.run_of("t", 1, {"n": n}, code) as own:
        return own.folder


def test_a_checkpoint_belongs_to_key_code_and_fresh_start(monkeypatch):
    assert folder_of() == folder_of()
    others = [folder_of(code="b"), folder_of(n=2)]
    monkeypatch.setenv("SPATIALKIT_FRESH", "2026-01-01")
    others.append(folder_of())
    monkeypatch.setenv("SPATIALKIT_FRESH", "2026-01-02")
    others.append(folder_of())
    monkeypatch.delenv("SPATIALKIT_FRESH")
    assert len({folder_of(), *others}) == 5


def test_another_version_does_not_resume():
    folders = set()
    for version in (1, 2):
        with context.run_of("t", version, {"n": 1}, "a") as own:
            folders.add(own.folder)
    assert len(folders) == 2


@lab.task
def trains(n, fate):
    path = context.next_checkpoint()
    found = load_checkpoint(path)
    save_checkpoint(path, {"x": torch.ones(1), "of": n})
    if fate:
        raise {"raise": ValueError, "disk": OSError, "stop": KeyboardInterrupt}[fate]("so it ends")
    return {"resumed": found is not None, "second": str(context.next_checkpoint().name)}


@pytest.mark.parametrize(("fate", "kept"), [("raise", False), ("disk", True), ("stop", True), ("", False)])
def test_a_checkpoint_survives_kills_and_full_disks_but_no_error_of_the_run(fate, kept):
    try:
        record = run(trains, {"n": 1, "fate": fate}, MADE)
        assert record["rows"] == [{"resumed": False, "second": "1.safetensors"}]
    except (ValueError, OSError, KeyboardInterrupt):
        pass
    assert bool(list(places.out().glob("checkpoints/*/*"))) == kept
    assert context.next_checkpoint() is None  # outside a run


def test_other_code_does_not_resume_and_takes_what_is_left_away():
    with pytest.raises(KeyboardInterrupt):
        run(trains, {"n": 1, "fate": "stop"}, MADE)
    with context.run_of("trains", 1, {"n": 1, "fate": "stop"}, "other"):
        assert load_checkpoint(context.next_checkpoint()) is None
    assert not list(places.out().glob("checkpoints/*"))


def test_the_same_code_resumes():
    with pytest.raises(KeyboardInterrupt):
        run(trains, {"n": 1, "fate": "stop"}, MADE)
    with context.run_of("trains", 1, {"n": 1, "fate": "stop"}, "a"):
        assert load_checkpoint(context.next_checkpoint())["of"] == 1
