"""Profiles: the same experiment at three sizes."""

from typing import TypeVar

__all__ = ["PROFILES", "current", "pick"]

PROFILES = {
    "smoke": "embedded data, seconds per notebook: proves that every line runs, is no evidence",
    "laptop": "the real data, shrunk so that two CPU cores finish a notebook in about 25 minutes",
    "paper": "the source's own setting, on one GPU",
}
_current = "laptop"
T = TypeVar("T")


def pick(profile: str, *, smoke: T, laptop: T, paper: T) -> T:
    """The settings of one profile, and from here on the profile of this session.

    Records that a sweep makes afterwards name this profile in their provenance, and smoke
    output goes to a folder of its own (see ``spatialkit.lab.places``).

    Args:
        profile: "smoke", "laptop" or "paper".
        smoke, laptop, paper: What to return for each; commonly tuples of equal length.

    Raises:
        ValueError: If the profile is none of the three.
    """
    global _current
    choices = {"smoke": smoke, "laptop": laptop, "paper": paper}
    if profile not in choices:
        raise ValueError(f"profile must be one of {', '.join(choices)}, got {profile!r}")
    _current = profile
    return choices[profile]


def current() -> str:
    """The profile that ``pick`` chose last; "laptop" before the first choice."""
    return _current
