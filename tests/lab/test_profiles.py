"""The profile of a session picks sizes, and goes into the provenance of what it makes."""

import pytest

from spatialkit import lab
from spatialkit.lab import places, profiles
from spatialkit.lab.store import Store


@lab.task
def one(n):
    return {"x": n}


@pytest.mark.parametrize("profile", ["smoke", "laptop", "paper"])
def test_a_session_picks_and_records_by_its_profile(profile):
    lab.begin("laptop" if profile == "smoke" else "smoke")
    lab.begin(profile)
    assert lab.pick(smoke=(1, "a"), laptop=(2, "b"), paper=(3, "c"))[0] == list(profiles.PROFILES).index(profile) + 1
    table = lab.sweep(one, n=[1], executor=lab.Serial())
    (record,) = Store(places.out() / "results", "one").read().values()
    assert record["made"]["profile"] == profile and lab.summary(table)["profile"] == [profile]


def test_an_unknown_profile_is_refused_and_the_old_one_stays():
    with pytest.raises(ValueError, match="profile must be one of smoke, laptop, paper, got 'huge'"):
        lab.begin("huge")
    assert profiles.current() == "laptop"


def test_a_forgotten_begin_is_told_by_whatever_needs_it(monkeypatch):
    monkeypatch.setattr(profiles, "_begun", None)
    for needs in (lambda: lab.pick(smoke=1, laptop=2, paper=3), lambda: lab.sweep(one, n=[1])):
        with pytest.raises(ValueError, match=r"begin with lab\.begin\(profile\)"):
            needs()
    assert not (places.out() / "results").exists()
