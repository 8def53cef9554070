"""The list of claims can be read by a program: fields, order, notebooks and numbers."""

import csv
import json
import math
import re
from importlib import resources

import pytest
import yaml

from spatialkit.lab import places

LIST = yaml.safe_load(resources.files("spatialkit.claims").joinpath("claims.yaml").read_text("utf-8"))
CLAIMS = LIST["claims"]
with (places.root() / "figures" / "scorecard.csv").open(newline="", encoding="utf-8") as stream:
    ROWS = list(csv.DictReader(stream))
TEXTS = {"id", "source", "artefact", "says", "rule", "notebook"}
each_claim = pytest.mark.parametrize("claim", CLAIMS, ids=lambda claim: claim["id"])


def numbers(value):
    """Leaves of nested mappings and lists."""
    if isinstance(value, dict):
        value = list(value.values())
    return [leaf for part in value for leaf in numbers(part)] if isinstance(value, list) else [value]


def test_list_has_sources_general_rules_and_claims():
    assert list(LIST) == ["sources", "rules", "claims"]
    assert all(isinstance(text, str) and text for key in ("sources", "rules") for text in LIST[key].values())


def test_ids_are_unique():
    ids = [claim["id"] for claim in CLAIMS]
    assert len(set(ids)) == len(ids)


def test_claims_follow_the_order_of_the_sources_and_none_is_without_claims():
    prefixes = [claim["source"] for claim in CLAIMS]
    order = list(LIST["sources"])
    assert prefixes == sorted(prefixes, key=order.index)
    assert set(prefixes) == set(order)


@each_claim
def test_claim_has_its_fields_and_no_others(claim):
    texts = set(claim) - {"paper", "smallest", "necessary"}
    assert texts - {"needs", "was"} == TEXTS
    assert all(isinstance(claim[key], str) and claim[key] for key in texts)


@each_claim
def test_smallest_effects_are_positive_numbers_of_parts_that_the_rule_has(claim):
    smallest = claim.get("smallest", {})
    assert all(isinstance(effect, (int, float)) and effect > 0 for effect in smallest.values())
    if claim["id"] not in ("so.fig5", "so.fig6"):  # their rule is that of so.fig3
        assert all(f"({part})" in claim["rule"] for part in smallest)


@each_claim
def test_necessary_parts_have_rows_once_they_are_measured(claim):
    rows = [row for row in ROWS if row["claim"] == claim["id"] and row["verdict"] != "not run"]
    for text in claim.get("necessary", []) if rows else []:
        assert any(text in row["what"] for row in rows)


@each_claim
def test_no_rule_speaks_of_what_is_neither_replicated_nor_undecided(claim):
    assert not re.search(r"\bpartly\b|delivered|answered", claim["rule"])


@each_claim
def test_id_begins_with_a_source(claim):
    prefix, _, artefact = claim["id"].partition(".")
    assert prefix == claim["source"] and prefix in LIST["sources"] and artefact.isalnum()


@each_claim
def test_notebook_is_a_number_of_two_digits_or_the_second_of_that_number(claim):
    number = claim["notebook"]
    assert number[:2] in {f"{number:02d}" for number in range(1, 18)} and number[2:] in ("", "b")


@each_claim
def test_numbers_of_the_source_are_numbers(claim):
    if "paper" not in claim:
        return
    # YAML 1.1 reads 2e5 as a word; 2.0e+5 is a number.
    assert isinstance(claim["paper"], dict)
    leaves = numbers(claim["paper"])
    assert leaves and all(type(leaf) in (int, float) and math.isfinite(leaf) for leaf in leaves)


MEASURED = [row for row in ROWS if row["verdict"] != "not run"]


def range_of(what):
    """Where a number can lie, as far as its words tell."""
    if re.search(r"correlation|^r |rank|path of|error and|order of arch", what):
        return -1, 1
    if re.search(r"share|samples without|/ epochs|/ sum", what) and not re.search(
        r"\(n?o?t? ?low\)|random - true", what
    ):
        return 0, 1
    positive = re.search(r"variance of arch|shuffled / trained|ratio$|worst / random|random / pair|mean square", what)
    return (0, math.inf) if positive else (-math.inf, math.inf)


@each_claim
def test_committed_intervals_hold_their_numbers_and_keep_their_ranges(claim):
    for row in MEASURED:
        if row["claim"] == claim["id"]:
            value, low, high = (float(row[name] or row["ours"]) for name in ("ours", "low", "high"))
            least, most = range_of(row["what"])
            assert least <= low <= value <= high <= most, row["what"]


def test_every_measured_claim_says_what_was_found():
    found = json.loads((places.root() / "figures" / "found.json").read_text("utf-8"))
    assert list(found) == list(dict.fromkeys(row["claim"] for row in MEASURED))
    assert all(re.search(r"\d", sentence) and sentence.endswith(".") for sentence in found.values())
