"""Saving a classifier leaves what others have written."""

from __future__ import annotations

from pathlib import Path

import pytest

from cycledistill_deit import ClassificationConfig, create_classifier, save_plain

NAMES = ("cat", "dog", "owl")


def test_only_an_own_folder_is_replaced(tmp_path: Path) -> None:
    config = ClassificationConfig(
        model="vit_tiny_patch16_224", image_size=32, embed_dim=48, depth=1, num_heads=3
    )
    model = create_classifier(config, len(NAMES))
    folder = tmp_path / "plain"
    for _ in range(2):
        save_plain(model, config, NAMES, folder)
    (tmp_path / "other").touch()
    modes = {path.stat().st_mode for path in folder.iterdir()}
    assert modes == {(tmp_path / "other").stat().st_mode}
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(FileExistsError, match=r"found notes\.txt, README\.md"):
        save_plain(model, config, NAMES, folder)
    (folder / "notes.txt").unlink()
    (folder / "README.md").write_text("a timm model of somebody's")
    with pytest.raises(FileExistsError):
        save_plain(model, config, NAMES, folder)
    assert (folder / "README.md").read_text() == "a timm model of somebody's"
