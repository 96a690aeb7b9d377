"""Images from a file, a folder or a video."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from cycledistill.saving._files import image_files
from cycledistill_pose.data._picture import ImageArray

VIDEOS = (".mp4", ".avi", ".mov", ".mkv", ".webm")


class Images:
    """The image files of a folder and its subfolders, or one file.

    ``names`` are their paths relative to ``folder``; hidden files and folders are left out.
    """

    def __init__(self, source: Path) -> None:
        if not source.exists():
            raise FileNotFoundError(f"there is no image, folder or video {source}")
        self.folder = source if source.is_dir() else source.parent
        self.paths = image_files(source) if source.is_dir() else [source]
        self.names = [path.relative_to(self.folder).as_posix() for path in self.paths]

    def __iter__(self) -> Iterator[Path]:
        return iter(self.paths)


class Video:
    """The frames of a video; frame 1 is called ``000001.png``."""

    def __init__(self, path: Path) -> None:
        if not path.is_file():
            raise FileNotFoundError(f"there is no video {path}")
        self.path = path
        self.folder = path.parent
        capture = self._open()
        self.fps = capture.get(cv2.CAP_PROP_FPS) or 25.0
        count = 0  # the length in the header is an estimate
        while capture.grab():
            count += 1
        capture.release()
        if count == 0:
            raise ValueError(f"{path} has no frame that can be read")
        self.names = [f"{number:06d}.png" for number in range(1, count + 1)]

    def __iter__(self) -> Iterator[ImageArray]:
        capture = self._open()
        for _ in self.names:
            fine, frame = capture.read()
            if not fine:
                raise ValueError(f"{self.path} ends before its last frame")
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
        capture.release()

    def _open(self) -> cv2.VideoCapture:
        capture = cv2.VideoCapture(str(self.path))
        if not capture.isOpened():
            raise ValueError(f"{self.path} cannot be read as a video")
        return capture
