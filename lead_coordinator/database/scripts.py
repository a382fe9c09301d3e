"""Reading a psql script, so that the driver can run what psql runs.

The four files of `sql/` are written for plain psql. Run by the driver, they lose psql's meta lines (`\\set`,
`\\echo`, …) and their own BEGIN and COMMIT, because `deploy` puts all four into one transaction. A meta
command that would change what the script means (`\\if`, `\\gexec`, `\\set` of a variable of one's own, …) is
refused rather than ignored.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

# These only change how psql talks or stops (its own variables are in capitals); the driver stops at the first
# error anyway.
_HARMLESS_META = re.compile(r"\\(echo|qecho|warn|pset|timing|encoding|(un)?set\s+[A-Z_]+)\b")
_TRANSACTION = re.compile(r"(BEGIN|START\s+TRANSACTION|COMMIT|END)(\s+(TRANSACTION|WORK))?", re.IGNORECASE)
_BLANK = re.compile(r"\s+|--[^\n]*")
_TOKEN = re.compile(
    r"""
      (?P<line_comment>--[^\n]*)
    | (?P<block_comment>/\*)
    | (?P<escape_string>\b[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>'(?:[^']|'')*')
    | (?P<identifier>"(?:[^"]|"")*")
    | (?P<dollar>(?<![\w$])\$(?:[A-Za-z_]\w*)?\$)
    | (?P<atomic>\bBEGIN\s+ATOMIC\b)
    | (?P<case>\bCASE\b)
    | (?P<close>\bEND\b)
    | (?P<word>\w+)
    | (?P<semicolon>;)
    | (?P<meta>^[ \t]*\\[^\n]*)
    """,
    re.VERBOSE | re.MULTILINE | re.DOTALL | re.IGNORECASE,
)


class ScriptError(ValueError):
    """The script can't be run through the driver; the sentence names the line."""


@dataclass(frozen=True)
class Statement:
    """One SQL statement without its semicolon, and the line (from 1) on which it starts."""

    text: str
    line: int


def statements(script: str) -> Iterator[Statement]:
    """The statements of a psql script in order, without meta lines, BEGIN and COMMIT.

    Raises `ScriptError` for meta commands that change what the script means, and for what is never closed.
    """
    text = script
    start = position = 0
    depth = (
        0  # inside BEGIN ATOMIC … END, the one place outside quotes where a semicolon doesn't end a statement
    )
    while (token := _TOKEN.search(text, position)) is not None:
        kind, position = token.lastgroup, token.end()
        if kind == "block_comment":
            position = _after_block_comment(text, token.start())
        elif kind == "dollar":
            position = text.find(token.group(), position) + len(token.group())
            if position < token.end():
                raise ScriptError(f"line {_line(text, token.start())}: {token.group()} is never closed")
        elif kind == "meta":
            if not _HARMLESS_META.match(token.group().strip()):
                command = token.group().strip()
                raise ScriptError(
                    f"line {_line(text, token.start())}: {command} can't be run through the driver"
                )
            text = text[: token.start()] + " " * len(token.group()) + text[position:]  # offsets stay true
        elif kind == "atomic":
            depth = 1
        elif kind == "case" and depth:
            depth += 1
        elif kind == "close" and depth:
            depth -= 1
        elif kind == "semicolon" and not depth:
            yield from _statement(text, start, token.start())
            start = position
    yield from _statement(text, start, len(text))


def _statement(text: str, start: int, end: int) -> Iterator[Statement]:
    """The statement between two offsets, unless it is empty or the script's own transaction."""
    while start < end:
        blank = _BLANK.match(text, start, end)
        if blank is not None:
            start = blank.end()
        elif text.startswith("/*", start):
            start = _after_block_comment(text, start)
        else:
            break
    statement = text[start:end].rstrip()
    if statement and not _TRANSACTION.fullmatch(statement):
        yield Statement(statement, _line(text, start))


def _after_block_comment(text: str, start: int) -> int:
    """PostgreSQL's block comments nest."""
    depth = 0
    for mark in re.compile(r"/\*|\*/").finditer(text, start):
        depth += 1 if mark.group() == "/*" else -1
        if depth == 0:
            return mark.end()
    raise ScriptError(f"line {_line(text, start)}: a comment is never closed")


def _line(text: str, offset: int) -> int:
    return text.count("\n", 0, offset) + 1
