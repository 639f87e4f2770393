"""Text <-> token ids: one token per byte, and one per common word, with and without a leading space.

Any UTF-8 text comes back exactly from `decode(encode(text))`. Pure Python, so that the modelled engine needs no numpy.
"""

import codecs
import re
from collections.abc import Iterable, Sequence

from pytest_llmperf.embedded.engine.vocabulary import WORDS

_SPECIAL = ("<|end|>", "<|system|>", "<|user|>", "<|assistant|>", "<|tool|>", "<|reserved|>")
_PIECES = [bytes([byte]) for byte in range(256)]
_PIECES += [form.encode() for word in WORDS for form in (" " + word, word) if len(form) > 1]
_TOKEN_OF = {piece: token for token, piece in enumerate(_PIECES)}
_PIECE = re.compile(rb" ?[a-z]+|.", re.DOTALL)

EOS = len(_PIECES)
VOCAB_SIZE = len(_PIECES) + len(_SPECIAL)
WORD_TOKENS = tuple(_TOKEN_OF[f" {word}".encode()] for word in WORDS)  # one token and one word of text each


def encode(text: str) -> list[int]:
    tokens: list[int] = []
    for piece in _PIECE.findall(text.encode("utf-8", "surrogatepass")):
        token = _TOKEN_OF.get(piece)
        if token is None:
            tokens += piece
        else:
            tokens.append(token)
    return tokens


def decode(tokens: Iterable[int]) -> str:
    """The text of the tokens. Special tokens have none; bytes that are not UTF-8 become U+FFFD."""
    return b"".join(_bytes_of(token) for token in tokens).decode("utf-8", "replace")


def encode_chat(messages: Sequence[tuple[str, str]]) -> list[int]:
    """(role, text) messages in the chat template: a token before and after each, and one that opens the answer."""
    tokens: list[int] = []
    for role, text in messages:
        tokens += [_role_token(role), *encode(text), EOS]
    return [*tokens, _role_token("assistant")]


class Detokenizer:
    """The text of a stream of tokens. A token that ends within a character gives "" until the character is whole."""

    __slots__ = ("_decoder",)

    def __init__(self) -> None:
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def add(self, token: int, *, last: bool = False) -> str:
        return self._decoder.decode(_bytes_of(token), last)


def _bytes_of(token: int) -> bytes:
    return _PIECES[token] if token < EOS else b""


def _role_token(role: str) -> int:
    name = f"<|{role}|>"
    return EOS + _SPECIAL.index(name if name in _SPECIAL else "<|reserved|>")
