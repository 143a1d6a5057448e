"""What is done to a valid file: random changes of its bytes, its text, or what lies in its place.

Every mutator is a function of a ``random.Random`` and the content, so that a seed makes the same
file again. Those that know a format are in ``structured``.
"""

from __future__ import annotations

import codecs
import gzip
import random
import re
from collections.abc import Callable

Mutator = Callable[[random.Random, bytes], bytes]

#: What stands where a number was.
ODD_NUMBERS = (
    "nan", "inf", "-inf", "0", "-1", "1", "2", "-0.0", "1e400", "1e308", "-1e308", "1e-320", "1e30",
    "1e10", "0.5", "2147483648", "-2147483649", "4294967296", "9223372036854775808", "99999999999",
    "1" * 400, "1" * 5000, "", "1.5", "--1", "0x10", "1_000", "1,5", "１", "1e5", "1d0", "*****",
    "1.2.3", "+", "True", "None", "1:30", "3.0*^-6",
)  # fmt: skip

#: What stands where a word was.
ODD_WORDS = (
    "None", "null", "true", "[]", "{}", "", "'", '"', "Xx", "D", "X", "H1", "é", "\x00", "\x1b[31m",
    "A" * 10_000, "../../x", "/etc/passwd", "%s%n", "{0}", "=", ":", "-", "*", "&a",
    "!!python/name:os", "<script>", "\t", "\u2028", "，", "µ", "Å", "𝟙", "NO", "on", "~", "#", "@",
)  # fmt: skip


# ---- bytes ---------------------------------------------------------------------------------------


def _span(rng: random.Random, content: bytes, most: int | None = None) -> tuple[int, int]:
    """A random piece of the content: mostly short, sometimes of any length."""
    size = len(content)
    if not size:
        return 0, 0
    longest = min(size, most or size)
    length = rng.randint(1, min(16, longest)) if rng.random() < 0.6 else rng.randint(1, longest)
    start = rng.randrange(size - length + 1)
    return start, start + length


def truncated(rng: random.Random, content: bytes) -> bytes:
    end = rng.choice((rng.randrange(len(content) + 1), max(len(content) - rng.randint(1, 40), 0)))
    return content[:end]


def beheaded(rng: random.Random, content: bytes) -> bytes:
    return content[rng.randint(1, max(len(content) // 2, 1)) :]


def bits_flipped(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8)) if changed else 0):
        changed[rng.randrange(len(changed))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def bytes_set(rng: random.Random, content: bytes) -> bytes:
    changed = bytearray(content)
    start, end = _span(rng, content, 64)
    fill = rng.choice((0, 0xFF, 0x7F, None))
    for k in range(start, end):
        changed[k] = rng.randrange(256) if fill is None else fill
    return bytes(changed)


def piece_deleted(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:start] + content[end:]


def piece_doubled(rng: random.Random, content: bytes) -> bytes:
    start, end = _span(rng, content)
    return content[:end] + content[start:end] * rng.choice((1, 1, 3)) + content[end:]


def pieces_swapped(rng: random.Random, content: bytes) -> bytes:
    if len(content) < 4:
        return content
    a, b, c, d = sorted(rng.randrange(len(content) + 1) for _ in range(4))
    return content[:a] + content[c:d] + content[b:c] + content[a:b] + content[d:]


def bytes_inserted(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.randbytes(rng.choice((1, 1, 4, 100))) + content[place:]


def appended(rng: random.Random, content: bytes) -> bytes:
    more = rng.choice((b"\x00" * 512, b"\n", b"garbage\n", content, rng.randbytes(50)))
    return content + more


def emptied(rng: random.Random, content: bytes) -> bytes:
    return rng.choice((b"", b"", b"\x00", b"\n", b" \n\n", b"\x00" * 1000))


BYTES: dict[str, Mutator] = {
    f.__name__: f
    for f in (
        truncated, beheaded, bits_flipped, bits_flipped, bytes_set, piece_deleted, piece_doubled,
        pieces_swapped, bytes_inserted, appended, emptied,
    )
}  # fmt: skip


# ---- text ----------------------------------------------------------------------------------------

_NUMBER = re.compile(rb"[-+]?\d+(?:\.\d*)?(?:[eE][-+]?\d+)?")
_WORD = re.compile(rb"[^\s,;:=\[\]{}\"']+")


def _replaced(rng: random.Random, content: bytes, pattern: re.Pattern[bytes], new: bytes) -> bytes:
    found = list(pattern.finditer(content))
    if not found:
        return content + new
    place = rng.choice(found)
    return content[: place.start()] + new + content[place.end() :]


def with_bom(rng: random.Random, content: bytes) -> bytes:
    return rng.choice((codecs.BOM_UTF8, codecs.BOM_UTF16_LE)) + content


def in_utf16(rng: random.Random, content: bytes) -> bytes:
    return content.decode("utf-8", "replace").encode(rng.choice(("utf-16", "utf-32", "utf-16-be")))


def in_latin1(rng: random.Random, content: bytes) -> bytes:
    place = rng.randrange(len(content) + 1)
    return content[:place] + rng.choice((b"\xe9", b"\xc5", b" \xb1 ", b"\xff")) + content[place:]


def other_line_ends(rng: random.Random, content: bytes) -> bytes:
    return content.replace(b"\n", rng.choice((b"\r\n", b"\r", b"\n\n", b"\x0b", b"\x85", b" ")))


def odd_number(rng: random.Random, content: bytes) -> bytes:
    return _replaced(rng, content, _NUMBER, rng.choice(ODD_NUMBERS).encode())


def odd_word(rng: random.Random, content: bytes) -> bytes:
    return _replaced(rng, content, _WORD, rng.choice(ODD_WORDS).encode("utf-8", "surrogateescape"))


def word_from_elsewhere(rng: random.Random, content: bytes) -> bytes:
    words = _WORD.findall(content)
    return _replaced(rng, content, _WORD, rng.choice(words)) if words else content


def word_misspelt(rng: random.Random, content: bytes) -> bytes:
    words = [m for m in _WORD.finditer(content) if m[0][:1].isalpha()]
    if not words:
        return content
    m = rng.choice(words)
    k = rng.randrange(len(m[0]))
    new = rng.choice((m[0][:k] + m[0][k + 1 :], m[0][:k] + m[0][k:].upper(), m[0] + b"s"))
    return content[: m.start()] + new + content[m.end() :]


def _by_lines(change: Callable[[random.Random, list[bytes]], None]) -> Mutator:
    def mutator(rng: random.Random, content: bytes) -> bytes:
        lines = content.split(b"\n")
        change(rng, lines)
        return b"\n".join(lines)

    return mutator


def line_deleted(rng: random.Random, lines: list[bytes]) -> None:
    del lines[rng.randrange(len(lines))]


def line_doubled(rng: random.Random, lines: list[bytes]) -> None:
    k = rng.randrange(len(lines))
    lines[k:k] = [lines[k]] * rng.choice((1, 1, 500))


def lines_swapped(rng: random.Random, lines: list[bytes]) -> None:
    j, k = rng.randrange(len(lines)), rng.randrange(len(lines))
    lines[j], lines[k] = lines[k], lines[j]


def line_inserted(rng: random.Random, lines: list[bytes]) -> None:
    odd = (b"", b"   ", b"# a comment", b"A" * 100_000, b"1 2 3", b"\t\t", b"---", b"0")
    lines.insert(rng.randrange(len(lines) + 1), rng.choice(odd))


def token_deleted(rng: random.Random, lines: list[bytes]) -> None:
    k = rng.randrange(len(lines))
    words = lines[k].split(b" ")
    del words[rng.randrange(len(words))]
    lines[k] = b" ".join(words)


def nested(rng: random.Random, content: bytes) -> bytes:
    deep = rng.choice((50, 2000, 100_000))
    new = rng.choice((b"[" * deep, b'{"a":' * deep, b"{a: " * deep, b"- " * deep, b"(" * deep))
    if rng.random() < 0.3:
        return new
    return _replaced(rng, content, _WORD, new)


def trailing_blank(rng: random.Random, content: bytes) -> bytes:
    return rng.choice(
        (content.rstrip(), content + b"\n\n\n", content + b"   \n \n", content + b"\x1a")
    )


TEXT: dict[str, Mutator] = {
    **{
        f.__name__: f
        for f in (
            with_bom, in_utf16, in_latin1, other_line_ends, odd_number, odd_word,
            word_from_elsewhere, word_misspelt, nested, trailing_blank,
        )
    },
    **{
        f.__name__: _by_lines(f)
        for f in (line_deleted, line_doubled, lines_swapped, line_inserted, token_deleted)
    },
}  # fmt: skip
#: Numbers and words are what texts consist of.
TEXT_WEIGHTS = {"odd_number": 5, "odd_word": 4, "word_misspelt": 2, "line_deleted": 2}


# ---- another file in its place -------------------------------------------------------------------

_PNG = (
    b"\x89PNG\r\n\x1a\n\x00\x00\x00\rIHDR\x00\x00\x00\x01\x00\x00\x00\x01\x08\x06\x00\x00\x00\x1f"
)

#: Content of files that are something else than their names say; the seeds of other kinds, too.
STRANGERS = {
    "a PNG": _PNG + bytes(100),
    "a web page": b"<!DOCTYPE html>\n<html><body>404: Not Found</body></html>\n",
    "a Git LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:4d\nsize 12\n",
    "a pickle": b"\x80\x04\x95\x0f\x00\x00\x00\x00\x00\x00\x00]\x94(K\x01K\x02K\x03e.",
    "an empty zip file": b"PK\x05\x06" + bytes(18),
    "a gzip file": gzip.compress(b"a", mtime=0),
    "a number": b"3\n",
    "zeros": bytes(4096),
}
