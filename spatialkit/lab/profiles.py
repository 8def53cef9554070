"""Profiles: the same experiment at three sizes."""

from typing import TypeVar

__all__ = ["PROFILES", "begin", "current", "pick"]

PROFILES = {
    "smoke": "embedded data, seconds per notebook: proves that every line runs, is no evidence",
    "laptop": "the real data, shrunk so that two CPU cores finish a notebook in about 25 minutes",
    "paper": "the source's own setting, on one GPU",
}
_begun: str | None = None
T = TypeVar("T")


def begin(profile: str) -> None:
    """Set the profile of this session: what ``lab.pick`` picks, and what the records of its sweeps name.

    Args:
        profile: "smoke", "laptop" or "paper".

    Raises:
        ValueError: If the profile is none of the three.
    """
    global _begun
    if profile not in PROFILES:
        raise ValueError(f"profile must be one of {', '.join(PROFILES)}, got {profile!r}")
    _begun = profile


def pick(*, smoke: T, laptop: T, paper: T) -> T:
    """The setting for the profile of this session.

    Args:
        smoke, laptop, paper: What to return for each; commonly tuples of equal length.

    Raises:
        ValueError: If no session was begun.
    """
    return {"smoke": smoke, "laptop": laptop, "paper": paper}[current()]


def current() -> str:
    """The profile of this session.

    Raises:
        ValueError: If ``begin`` was not called, so that neither sizes nor the records' provenance would be known.
    """
    if _begun is None:
        raise ValueError('begin with lab.begin(profile), as in lab.begin("laptop"): results name their profile')
    return _begun
