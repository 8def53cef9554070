"""The committed evidence stands on the present code, or on code that was found equal."""

import pytest

from spatialkit.lab import audit, places


def test_every_committed_record_stands_on_the_present_code():
    found = audit.standings(places.root())
    if not found:
        pytest.skip("no committed results are here")
    assert {standing.task: standing.problems for standing in found if standing.problems} == {}
    assert sum(sum(standing.counts.values()) for standing in found) > 0
