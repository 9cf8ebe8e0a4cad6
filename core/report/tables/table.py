"""A table: texts in rows, for HTML and for Markdown."""

from __future__ import annotations

from dataclasses import dataclass

from tokensieve.core.output.markdown import escaped, paragraph, pipe_table


@dataclass(frozen=True)
class Table:
    """Texts in rows; the first column names the row. ``note`` explains the numbers."""

    title: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    note: str = ""

    def markdown(self) -> str:
        """A pipe table below its title."""
        lines = [f"### {escaped(self.title)}", "", pipe_table(self.columns, self.rows), ""]
        return "\n".join([*lines, paragraph(self.note), ""] if self.note else lines)
