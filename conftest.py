"""Rules for the check of stored notebook outputs (nbval), which collects notebooks/*.ipynb."""


def pytest_collectstart(collector):
    """Do not compare stderr: progress bars and warnings hold times, not results."""
    if hasattr(collector, "skip_compare"):
        collector.skip_compare = (*collector.skip_compare, "stderr")
