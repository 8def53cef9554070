"""The list of claims: what each source says, and the rule by which it is judged (claims.yaml)."""

import functools
from importlib import resources

import yaml

__all__ = ["catalogue", "entry", "smallest", "sources"]


@functools.cache
def _listed() -> dict:
    return yaml.safe_load(resources.files("spatialkit.claims").joinpath("claims.yaml").read_text("utf-8"))


@functools.cache
def catalogue() -> dict[str, dict]:
    """Claim id -> its entry in claims.yaml: what the source says and the rule for a verdict."""
    return {claim["id"]: claim for claim in _listed()["claims"]}


def sources() -> dict[str, str]:
    """Prefix of claims -> the work they come from, cited in full."""
    return dict(_listed()["sources"])


def entry(claim: str) -> dict:
    """One claim of the list.

    Raises:
        ValueError: If it is unknown.
    """
    if claim not in catalogue():
        raise ValueError(f"{claim!r} is not in claims.yaml; known are {', '.join(catalogue())}")
    return catalogue()[claim]


def smallest(claim: str) -> dict[str, float]:
    """Part -> the smallest effect that counts, for the parts of a claim that claim a sign.

    Raises:
        ValueError: If the claim is unknown.
    """
    return dict(entry(claim).get("smallest", {}))
