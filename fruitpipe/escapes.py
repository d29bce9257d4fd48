"""Text that is shown and not obeyed: a name of a file may be a command to the terminal that it is printed on."""

from __future__ import annotations

import re

CONTROLS = re.compile(r"[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
"""C0, DEL and C1, line separators, what turns the direction of writing (Unicode Standard Annex 9), and halves of
characters, as which Python has bytes that are not UTF-8."""


def visible(text: str, kept: str = "\t\n") -> str:
    """The text with each control character as `\\x1b` or `\\u202e`, but for those that are the program's own."""

    def escape(match: re.Match[str]) -> str:
        code = ord(match[0])
        code -= 0xDC00 if 0xDC80 <= code <= 0xDCFF else 0  # a byte (PEP 383)
        return match[0] if match[0] in kept else f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"

    return CONTROLS.sub(escape, text)
