"""Tables as Markdown for a report and as aligned text for a terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field


@dataclass
class Table:
    """A header and rows of text; columns named in `numeric` are aligned to the right."""

    header: Sequence[str]
    rows: list[list[str]] = field(default_factory=list)
    numeric: frozenset[str] = frozenset()

    def markdown(self) -> str:
        """The table in Markdown."""
        rule = ["---:" if name in self.numeric else "---" for name in self.header]
        return "\n".join(
            "| " + " | ".join(map(escape, row)) + " |" for row in [self.header, rule, *self.rows]
        )

    def text(self) -> str:
        """The table with its columns aligned by spaces."""
        lines = [list(self.header), *self.rows]
        widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
        lines.insert(1, ["-" * width for width in widths])
        return "\n".join("  ".join(self.align(row, widths)).rstrip() for row in lines)

    def align(self, row: Sequence[str], widths: Sequence[int]) -> list[str]:
        """The cells of a row padded to the widths of their columns."""
        return [
            cell.rjust(width) if name in self.numeric else cell.ljust(width)
            for name, cell, width in zip(self.header, row, widths, strict=True)
        ]


def escape(cell: str) -> str:
    """A cell's text without what would end the cell or the line."""
    return " ".join(cell.replace("|", "\\|").split())


def number(value: float | None, digits: int = 4) -> str:
    """A number of a table; a dash where there is none."""
    if value is None or value != value:
        return "-"
    return f"{value:,}" if isinstance(value, int) else f"{value:.{digits}f}"


def interval(bounds: Sequence[float] | None, digits: int = 4) -> str:
    """The bounds of an interval; a dash where there is none."""
    return " to ".join(number(bound, digits) for bound in bounds) if bounds else "-"


def percent(part: int, whole: int) -> str:
    """Part of whole as a percentage, rounded down so that 100.0 % means all."""
    return f"{1000 * part // whole / 10:.1f} %" if whole else "-"


def share(part: int, whole: int) -> str:
    """Part of whole with its percentage, such as `190 of 200 (95.0 %)`."""
    return f"{part:,} of {whole:,} ({percent(part, whole)})"
