"""The images that an annotation file lists."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

from cycledistill_pose.annotations._values import as_integer, as_list, as_number


class ListedImage(NamedTuple):
    """An image of a file; 0 and None where the file says nothing, -1 without a crowd index."""

    id: Any
    file_name: str | None
    width: int
    height: int
    crowd_index: float

    @property
    def size(self) -> tuple[int, int] | None:
        """(width, height), or None where the file does not say."""
        return (self.width, self.height) if self.width > 0 and self.height > 0 else None


def read_images(
    content: Mapping[str, Any], title: str, read_id: Callable[[Any, str], Any] = as_integer
) -> tuple[ListedImage, ...]:
    """The images of a file, each of whose ids must be its own."""
    images = []
    for entry in as_list(content, "images", title):
        number = read_id(entry.get("id"), f"{title}: image ids")
        name = f"{title}: image {number}"
        width, height, crowd, file_name = map(
            entry.get, ("width", "height", "crowdIndex", "file_name")
        )
        images.append(
            ListedImage(
                number,
                None if file_name is None else str(file_name),
                0 if width is None else as_integer(width, f"{name}: width"),
                0 if height is None else as_integer(height, f"{name}: height"),
                -1.0 if crowd is None else as_number(crowd, f"{name}: crowdIndex"),
            )
        )
    check_distinct(images, title)
    return tuple(images)


def check_distinct(images: Sequence[ListedImage], title: str) -> None:
    """Check that no two images have the same id."""
    repeated = [i for i, n in Counter(image.id for image in images).items() if n > 1]
    if repeated:
        raise ValueError(
            f"{title}: {len(repeated)} image ids repeat, {repeated[0]} among them; expected "
            "another id for each image"
        )
