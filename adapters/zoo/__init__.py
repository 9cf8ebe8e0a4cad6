"""The built-in trained models and the recipe they come from."""

from __future__ import annotations

from pathlib import Path

MODELS = {
    folder.name: folder
    for folder in sorted((Path(__file__).parent / "checkpoints").glob("*"))
    if (folder / "config.json").is_file()
}
"""Short name -> Hugging Face folder."""
