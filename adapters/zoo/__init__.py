"""The built-in models: how each is built, and the trained weights, studies and pictures of ours.

Not here: how the models were trained (``adapters/zoo/training``).
"""

from __future__ import annotations

from pathlib import Path

EXAMPLES = {
    image.stem: (image, question)
    for image, question in (
        (Path(__file__).parent / "assets" / "scene.png", "What color is the 7?"),
    )
    if image.is_file()
}
"""Name -> picture and a question about it."""

MODELS = {
    folder.name: folder
    for folder in sorted((Path(__file__).parent / "checkpoints").glob("*"))
    if (folder / "config.json").is_file()
}
"""Short name -> Hugging Face folder."""

STUDIES = Path(__file__).parent / "studies"
"""Folder of the built-in studies."""
