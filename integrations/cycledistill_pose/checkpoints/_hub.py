"""Plain networks on the Hugging Face Hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub
from huggingface_hub import HfApi
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,  # its HTTP client's error, whichever that client is
)

from cycledistill.saving._folder import check_files

FILES = ("config.json", "model.safetensors", "README.md")


def find_folder(source: str | Path) -> Path:
    """Return the folder called ``source``, or else a download of the hub's model of this name."""
    if Path(source).exists() or isinstance(source, Path):
        return Path(source)
    try:
        return Path(huggingface_hub.snapshot_download(source, allow_patterns=list(FILES)))
    except (HFValidationError, OSError, HTTPError) as error:
        told = str(error).strip().splitlines() or [type(error).__name__]
        raise FileNotFoundError(
            f"{source} is not a folder here, and the Hugging Face Hub gave no model of this name: "
            f"{told[0]}"
        ) from error


def push_to_hub(folder: str | Path, repo_id: str, private: bool = False) -> str:
    """Upload the folder of a plain network, with its model card, to the Hugging Face Hub.

    You must be logged in (``hf auth login``). The repository is created if it does not exist.

    Args:
        folder: A folder written by ``save_plain``.
        repo_id: The name on the hub, as ``"owner/name"``; ``PosePredictor.from_pretrained`` and
            ``load_plain`` take it.
        private: Make a new repository private.

    Returns:
        The address of the repository.

    Raises:
        FileNotFoundError: A file is missing in the folder.
        ConnectionError: The hub cannot be reached, or refuses.
        ValueError: ``repo_id`` cannot be a name.
    """
    folder = Path(folder)
    check_files(folder, "pose network", *FILES)
    hub = HfApi()
    try:
        address = hub.create_repo(repo_id, private=private, exist_ok=True)
        hub.upload_folder(repo_id=repo_id, folder_path=folder, allow_patterns=list(FILES))
    except (OSError, HTTPError) as error:
        raise ConnectionError(
            f"{folder} could not be shared as {repo_id} on the Hugging Face Hub: {error}"
        ) from error
    return str(address)
