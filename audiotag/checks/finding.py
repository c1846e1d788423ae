"""What a check before a run found: a line for the screen and an exit code."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from audiotag.errors import describe, one_line

Level = Literal["ok", "warn", "fail"]
WIDTH = 110
INDENT = " " * 21


@dataclass(frozen=True)
class Finding:
    """One line of the screen.

    Args:
        level: `fail` for what would end the run, `warn` for what may.
        subject: what was looked at, in a word or two.
        text: what was found.
        advice: what to do about it; empty where there is nothing to do.
        exit_code: of the command when this fails, as `audiotag.errors` has them.
    """

    level: Level
    subject: str
    text: str
    advice: str = ""
    exit_code: int = 1

    def lines(self) -> str:
        """The finding as it is shown, wrapped."""
        head = f"{self.level:4}  {self.subject:13}  "
        text = one_line(f"{self.text}: {self.advice}" if self.advice else self.text)
        return textwrap.fill(
            text, WIDTH, initial_indent=head, subsequent_indent=INDENT, break_on_hyphens=False
        )


def ok(subject: str, text: str) -> Finding:
    """All is well."""
    return Finding("ok", subject, text)


def warn(subject: str, text: str, advice: str) -> Finding:
    """A run may suffer from this."""
    return Finding("warn", subject, text, advice)


def fail(subject: str, text: str, advice: str, error: type[Exception]) -> Finding:
    """A run would end by this, with the exit code of that error."""
    return Finding("fail", subject, text, advice, error.exit_code)


def failed(subject: str, error: Exception) -> Finding:
    """An error that a run would end by; its message has the advice."""
    text, exit_code = describe(error)
    return Finding("fail", subject, text, "", exit_code)


def exit_code(findings: Sequence[Finding]) -> int:
    """That of the first failure; 0 without one."""
    return next((finding.exit_code for finding in findings if finding.level == "fail"), 0)


def screen(findings: Sequence[Finding]) -> str:
    """All findings, and how many are bad."""
    failures, warnings = (sum(finding.level == level for finding in findings) for level in ("fail", "warn"))
    lines = [finding.lines() for finding in findings]
    return "\n".join([*lines, f"{len(findings)} checks: {failures} failed, {warnings} warnings"])
