"""Names of tests as names of files: baselines, requests, exports, points, searches and server logs. Pure.

A name that needed no change is distinguished from one that did, so two identifiers never have one file: what was
changed ends in a hash of the whole identifier, and an identifier that ends like one is changed too. It stands at the
top because the gate, the session, the search and the servers all name files, and none of them may import another for
it.
"""

from __future__ import annotations

import hashlib
import re
import unicodedata

_LONGEST = 96
"""Bytes; with the longest that we write around it (`search-`, `.checkpoint.json`) a file's name has at most 120."""
_HASH_DIGITS = 8
_END = 42
"""Bytes that are kept of each end of a name that is too long."""
_RESERVED = re.compile(r"(con|prn|aux|nul|conin\$|conout\$|com\d|lpt\d)(\..*)?", re.ASCII | re.IGNORECASE)
"""Devices of Windows, with any extension."""

# A file system may not tell cases apart, so only files and classes have capitals: what differs by them alone is rare.
_FILE = r"(?:(?!py/)[\w-]+/)*(?!py\.)[\w-]+\.py::"
_FUNCTION = r"(?:\w+::)*[a-z0-9_]+"
_DUET_ID = r"[a-z0-9_+]+-vs-[a-z0-9_+-]+"  # no dot, since that is where the old server's name begins
_ID = rf"\[(?:(?!.*-vs-)[a-z0-9_.+-]+|{_DUET_ID})\]"
_OLD_SERVER = rf"\[{_DUET_ID}\]\.[a-z0-9_+-]+"
_IN_FILE = re.compile(rf"{_FUNCTION}(?:{_ID}|{_OLD_SERVER})?", re.ASCII)
_TEST = re.compile(_FILE + _IN_FILE.pattern, re.ASCII)
_OTHER = re.compile(r"(?!(?:.*\.)?py(?:\.|$))[a-z0-9_+][a-z0-9_.+-]*", re.ASCII)
"""A point, a search, a server: no part of it is `py`, by which a test's name is known."""
_LOOKS_HASHED = re.compile(rf"(?:.*-)?[0-9a-f]{{{_HASH_DIGITS}}}")


def file_name(identifier: str, folder: str = "") -> str:
    """The identifier as the name of a file: safe on every system, at most 96 bytes, another for every identifier.

    `folder` is the beginning of the identifier that the file's folder gives already; the name leaves it out.
    `a.py::test_b[tp2-short]` is `a.py.test_b-tp2-short`; with a space in the brackets it ends in a hash.
    """
    shown = identifier.removeprefix(folder)
    known = _IN_FILE if folder else _TEST if "::" in identifier else _OTHER
    name = _joined(shown)
    fits = name[-1:] not in ("", ".", "-") and len(name) <= _LONGEST
    if fits and known.fullmatch(shown) and not (_RESERVED.fullmatch(name) or _LOOKS_HASHED.fullmatch(name)):
        return name
    digest = hashlib.sha256(identifier.encode("utf-8", "surrogatepass")).hexdigest()[:_HASH_DIGITS]
    return f"{_readable(name)}-{digest}".lstrip("-")


def _joined(identifier: str) -> str:
    return identifier.replace("::", ".").replace("/", ".").replace("[", "-", 1).replace("]", "", 1)


def _readable(name: str) -> str:
    """The name in letters that every file system has, without its middle where it is too long."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode()
    safe = re.sub(r"[^\w.+-]+", "-", plain, flags=re.ASCII).strip("-.")
    kept = safe if len(safe) <= 2 * _END else f"{safe[:_END]}..{safe[-_END:]}".strip("-.")
    return f"_{kept}" if _RESERVED.fullmatch(kept) else kept
