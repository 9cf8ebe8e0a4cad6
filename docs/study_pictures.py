"""Copy the figures and numbers of a study's report into the documentation.

``python docs/study_pictures.py DIR`` reads a study's folder and writes ``docs/images/study-*.svg``
and ``docs/data/study.csv``. The full built-in study is what the page on studies shows.
"""

from __future__ import annotations

import sys
from pathlib import Path

from tokensieve.core.report.page import write_report
from tokensieve.core.report.sections import sections

DOCS = Path(__file__).parent
EVERYTHING, EXAMPLE = 4, 7  # of a section: its first pictures, and one of a single question


def main() -> None:
    """Write all figures, numbered within their sections."""
    folder = Path(sys.argv[1])
    files, found = write_report(folder)
    for section in sections(found):
        for number, picture in enumerate(section.pictures, 1):
            if number > EVERYTHING and number != EXAMPLE:
                continue
            target = DOCS / "images" / f"study-{section.anchor}-{number}.svg"
            target.write_text(picture.svg, encoding="utf-8")
            print(f"{target.relative_to(DOCS)}: {picture.caption}")
    csv = next(file for file in files if file.suffix == ".csv")
    (DOCS / "data" / "study.csv").write_bytes(csv.read_bytes())


if __name__ == "__main__":
    main()
