"""The profile of a session goes into the provenance of what it makes."""

import pytest

from spatialkit import lab
from spatialkit.lab import places, profiles
from spatialkit.lab.store import Store


@lab.task
def one(n):
    return {"x": n}


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_records_name_the_profile_that_was_picked(monkeypatch, profile):
    monkeypatch.setattr(profiles, "_current", "laptop" if profile == "smoke" else "smoke")
    assert (
        lab.pick(profile, smoke=(1, "a"), laptop=(2, "b"), paper=(3, "c"))[0]
        == list(profiles.PROFILES).index(profile) + 1
    )
    assert profiles.current() == profile
    table = lab.sweep(one, n=[1], executor=lab.Serial())
    (record,) = Store(places.out() / "results", "one").read().values()
    assert record["made"]["profile"] == profile and table.attrs["made"]["profile"] == [profile]
