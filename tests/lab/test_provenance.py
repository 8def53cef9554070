"""The commit of a record says whether that commit is what ran."""

import subprocess

import pytest

from spatialkit.lab import places, provenance


@pytest.fixture
def bundle(tmp_path, monkeypatch):
    """An empty folder in the place of the bundle, and a function for git in it."""
    monkeypatch.setattr(places, "root", lambda: tmp_path)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))

    def git(*words):
        identity = ["-c", "user.name=n", "-c", "user.email=e@x"]
        done = subprocess.run(["git", *identity, *words], cwd=tmp_path, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    yield tmp_path, git
    provenance.commit.cache_clear()


def commit():
    provenance.commit.cache_clear()
    return provenance.commit()


def test_a_commit_has_a_plus_where_files_differ_from_it(bundle):
    root, git = bundle
    assert commit() == "unknown"
    git("init", "-q", "-b", "main")
    for folder in ("spatialkit", "notebooks", "docs"):
        (root / folder).mkdir()
        (root / folder / "a").write_text("1")
    git("add", "-A")
    git("commit", "-q", "-m", "x")
    head = git("rev-parse", "--short=10", "HEAD")
    assert commit() == head
    (root / "docs" / "a").write_text("2")  # no code
    assert commit() == head
    for folder in ("spatialkit", "notebooks"):
        (root / folder / "a").write_text("2")
        assert commit() == f"{head}+"
        (root / folder / "a").write_text("1")
    assert commit() == head
