"""Texts of a wanted length: words, token ids, or words that a tokenizer makes exactly so many tokens of.

Every prompt begins with a few pieces that each run exchanges for others (its mark), so these come from a vocabulary in
which any piece takes as many tokens as any other.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from pytest_llmperf.embedded.engine.vocabulary import WORDS
from pytest_llmperf.errors import PlanError
from pytest_llmperf.load.endpoints.openai import Content
from pytest_llmperf.load.trace.tokenizer import TextTokenizer, load_tokenizer
from pytest_llmperf.plan.load.point import LoadPoint

MARK_PIECES = 3
_UNKNOWN_VOCABULARY = tuple(range(1000, 2000))
"""Ids that every usual vocabulary has, and that are no special tokens in it."""
_ENOUGH_WORDS = 32
_FILLERS = (" a", ",", ".", " I", "!", " .", "\n", ";", "1", "s")


class Prompt(NamedTuple):
    """Content of a request; `tokens` as a server counts them, None where that is not known."""

    content: Content
    tokens: int | None = None


@dataclass(frozen=True, slots=True)
class Writer:
    """Writes all prompts of a load. Without a tokenizer a piece is taken for a token."""

    pieces: tuple[str, ...] | tuple[int, ...]
    draws: np.random.PCG64
    count: Callable[[str], int] | None = None
    """Tokens of a text by itself."""
    measure: Callable[[str], int] | None = None
    """Tokens of a whole prompt, with what a server puts around it."""
    encode: Callable[[str], tuple[int, ...]] | None = None
    """Set where prompts are token ids and texts of a file have to become such."""

    def prefix(self, tokens: int) -> Content:
        """A text to begin prompts with."""
        pieces = self._draw(tokens)
        return _content(pieces) if self.count is None else fitted(pieces, tokens, self.count)

    def synthetic(self, tokens: int, prefix: Content, prefix_tokens: int, begin: Sequence[str | int] = ()) -> Prompt:
        """A prompt of `tokens` tokens besides those of `prefix`; `begin` are its first pieces, as far as they fit.

        PlanError when that cannot be.
        """
        pieces = [*begin[:tokens], *self._draw(max(0, tokens - len(begin)))]
        total, measure = prefix_tokens + tokens, self.measure
        if measure is not None:
            return Prompt(fitted(pieces, total, lambda text: measure(str(joined(prefix, text)))), total)
        content = _content(pieces)
        return Prompt(content, total if isinstance(content, tuple) else None)

    def given(self, text: str, prefix: Content, *, marked: bool) -> Prompt:
        """A text of a file, with room for a mark before it."""
        mark = _content(list(self.pieces[:MARK_PIECES])) if marked else ""
        content = joined(mark, self.encode(text) if self.encode else text)
        whole = joined(prefix, content)
        if isinstance(whole, tuple):
            return Prompt(content, len(whole))
        return Prompt(content, self.measure(whole) if self.measure else None)

    def drawn_from(self, seed: tuple[int, ...], number: int) -> list[str | int]:
        """Pieces that depend on nothing but `seed`."""
        return replace(self, draws=np.random.PCG64(seed))._draw(number)

    def _draw(self, number: int) -> list[str | int]:
        return [self.pieces[chosen] for chosen in (self.draws.random_raw(number) % len(self.pieces)).tolist()]


def make_writer(point: LoadPoint, seed: int) -> Writer:
    """The writer that `prompt_as` and `tokenizer` ask for. Loads the tokenizer; PlanError when that fails."""
    # The raw stream of a bit generator stays the same in every version of numpy.
    draws = np.random.PCG64((seed, 1))
    tokenizer = None if point.tokenizer is None else load_tokenizer(point.tokenizer)
    if point.prompt_form == "token-ids":
        ids = _UNKNOWN_VOCABULARY if tokenizer is None else tokenizer.plain_ids()
        return Writer(ids, draws, encode=tokenizer.encode if tokenizer else None)
    if point.prompt_form == "words" or tokenizer is None:
        return Writer(WORDS, draws)
    return Writer(_equal_words(tokenizer), draws, tokenizer.count, _measure(tokenizer, point))


def make_prefixes(point: LoadPoint, writer: Writer) -> tuple[Content, ...]:
    """The texts of `shared_prefix`; one empty one without it."""
    shared = point.shared_prefix
    return ("",) if shared is None else tuple(writer.prefix(shared.tokens) for _ in range(shared.prefixes))


def joined(prefix: Content, content: Content) -> Content:
    """A prefix with content behind it; texts with a space between them."""
    if isinstance(content, tuple):
        return (prefix if isinstance(prefix, tuple) else ()) + content
    return f"{prefix} {content}" if prefix else content


def with_mark(content: Content, number: int, pieces: tuple[str, ...] | tuple[int, ...]) -> Content:
    """`content` with its first pieces exchanged for those that spell `number`."""
    own = content if isinstance(content, tuple) else content.split(" ", MARK_PIECES)
    count = min(MARK_PIECES, len(own))
    mark = []
    for _ in range(count):
        number, digit = divmod(number, len(pieces))
        mark.append(pieces[digit])
    return _content([*mark, *own[count:]])


def _content(pieces: list[str | int]) -> Content:
    if pieces and isinstance(pieces[0], int):
        return tuple(int(piece) for piece in pieces)
    return " ".join(map(str, pieces))


def _measure(tokenizer: TextTokenizer, point: LoadPoint) -> Callable[[str], int]:
    """Returns how prompts are counted; a turn of a conversation counts without the template around it."""
    if point.conversation is not None:
        return tokenizer.count
    return tokenizer.count_chat if point.endpoint in ("chat", "responses") else tokenizer.count_completion


def _equal_words(tokenizer: TextTokenizer) -> tuple[str, ...]:
    """Words that take the same number of tokens, at the start of a text and within it: one each if there are such."""
    classes: dict[tuple[int, int], list[str]] = {}
    for word in WORDS:
        classes.setdefault((tokenizer.count(word), tokenizer.count(f" {word}")), []).append(word)
    single = classes.get((1, 1), [])
    return tuple(single if len(single) >= _ENOUGH_WORDS else sorted(classes.values(), key=len)[-1])


def fitted(pieces: list[str | int], tokens: int, measure: Callable[[str], int]) -> str:
    """A text of words that measures exactly `tokens`; the words cost the same, so that the cost of two shows how
    many go in.
    """
    words = list(map(str, pieces))
    one = measure(words[0])
    if one > tokens:
        raise PlanError(
            f"{tokens} tokens are too few for a prompt: with this tokenizer the shortest (chat template or special "
            f"tokens, and one word) takes {one}"
        )
    each = max(1, measure(f"{words[0]} {words[0]}") - one)
    count = min(len(words), 1 + (tokens - one) // each)
    while count > 1 and measure(" ".join(words[:count])) > tokens:
        count -= 1
    return _filled(" ".join(words[:count]), tokens, measure)


def _filled(text: str, tokens: int, measure: Callable[[str], int]) -> str:
    """`text`, which is a little too short, with single tokens added."""
    for length in range(measure(text) + 1, tokens + 1):
        longer = next((text + piece for piece in _FILLERS if measure(text + piece) == length), None)
        if longer is None:
            raise PlanError(f"no text of exactly {tokens} tokens was found for this tokenizer; use `prompt_as: words`")
        text = longer
    return text
