"""Values that were filled in for `${NAME}`, so that nothing that is shown or written holds one of them.

They are known to the process, not handed from caller to caller: a text that goes outside may have come from anywhere.
"""

from __future__ import annotations

import base64
import html
import json
import re
from collections.abc import Iterable, Iterator
from urllib.parse import quote, quote_plus

HIDDEN = "***"
_SHORTEST = 4
"""Characters of a value that is hidden: one that is shorter is part of too many words."""
_DISTINCT, _LONG = 6, 12
"""Characters from which a value of letters and others, or of letters alone, is no word that we write ourselves."""

_forms: dict[str, None] = {}
_pattern: re.Pattern[str] | None = None
_distinct: re.Pattern[str] | None = None


def remember(*values: str) -> None:
    """Hides these values from now on, in every form in which a text may hold them."""
    global _pattern, _distinct
    new = {form for value in values for form in _forms_of(value)} - _forms.keys()
    if new:
        _forms.update(dict.fromkeys(new))
        _pattern, _distinct = _any_of(_forms), _any_of(filter(_is_distinct, _forms))


def remembered() -> tuple[str, ...]:
    """All forms of all values, for a process of ours that shall hide them too."""
    return tuple(_forms)


def redacted(text: str) -> str:
    """A text of others with `***` for every secret value."""
    return text if _pattern is None else _pattern.sub(HIDDEN, text)


def redacted_file(text: str) -> str:
    """The same for a text with words and numbers of our own, which a key such as EMPTY or 1234 must not break."""
    return text if _distinct is None else _distinct.sub(HIDDEN, text)


def _forms_of(value: str) -> Iterator[str]:
    """A secret's spellings: as it is, without the space around it, and as URLs, JSON, Python, HTML and base64 write
    it.
    """
    for plain in {value, value.strip()}:
        if len(plain) >= _SHORTEST:
            data = plain.encode("utf-8", "surrogateescape")
            yield from (plain, quote(data, safe=""), quote(data), quote_plus(data))
            yield from (json.dumps(plain)[1:-1], json.dumps(plain, ensure_ascii=False)[1:-1], repr(plain)[1:-1])
            yield from (html.escape(plain), base64.b64encode(data).decode(), base64.urlsafe_b64encode(data).decode())


def _is_distinct(form: str) -> bool:
    is_number = re.fullmatch(r"[\d.eE+-]+", form)
    return not is_number and len(form) >= (_LONG if form.isalpha() else _DISTINCT)


def _any_of(forms: Iterable[str]) -> re.Pattern[str] | None:
    """The longest first, since one may be part of another."""
    found = sorted(forms, key=len, reverse=True)
    return re.compile("|".join(map(re.escape, found))) if found else None
