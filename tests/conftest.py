"""Fixtures that several test files share."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import tiny_checkpoints
from command_line import Call, Result
from PIL import Image

from tokensieve.core.cli.entry import main


@pytest.fixture
def call(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Call:
    """Call the console entry point in an empty folder."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: str | Path) -> Result:
        monkeypatch.setattr(sys, "argv", ["tokensieve", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as exit_:
            main()
        shown = capsys.readouterr()
        return Result(int(exit_.value.code or 0), shown.out, shown.err)

    return run


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A Hugging Face folder of each family."""
    place = tmp_path_factory.mktemp("models")
    return {f: tiny_checkpoints.save(f, place / f) for f in tiny_checkpoints.PARTS}


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    """A wide picture, 3:2."""
    path = tmp_path / "picture.png"
    gradient = Image.linear_gradient("L").resize((120, 80))
    turned = gradient.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    Image.merge("RGB", (gradient, turned, gradient)).save(path)
    return path


@pytest.fixture
def plugin(tmp_path: Path) -> Path:
    path = tmp_path / "loud.py"
    path.write_text(
        "import tokensieve\n\n"
        "class LoudScorer(tokensieve.Scorer):\n"
        '    """Rank visual tokens by loudness."""\n\n'
        '    name = "loud"\n'
        '    needs = frozenset({"hidden"})\n\n'
        "    def score(self, view):\n"
        "        return view.hidden.norm(dim=-1)\n\n"
        "@tokensieve.hookimpl\n"
        "def tokensieve_register(registry):\n"
        "    registry.add(LoudScorer)\n"
    )
    return path
