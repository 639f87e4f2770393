"""A model's own tokenizer, from a folder on this machine: exact lengths of prompts, and counts of answers."""

from __future__ import annotations

import functools
import importlib
from pathlib import Path
from typing import Any

from pytest_llmperf.errors import PlanError


class TextTokenizer:
    """Counts as a server does: plain text, a completion's prompt (with the special tokens it gets), a chat's."""

    def __init__(self, name: str, hf: Any) -> None:
        self.name = name
        self._hf = hf

    def encode(self, text: str) -> tuple[int, ...]:
        """Ids of the text alone, without special tokens."""
        return tuple(self._hf.encode(text, add_special_tokens=False))

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def count_completion(self, text: str) -> int:
        return len(self._hf.encode(text, add_special_tokens=True))

    def count_chat(self, text: str) -> int:
        """Tokens of one user message in the chat template, up to where the answer begins."""
        try:
            text = self._hf.apply_chat_template(
                [{"role": "user", "content": text}], tokenize=False, add_generation_prompt=True
            )
        except (ValueError, ImportError) as error:
            raise PlanError(f"tokenizer {self.name}: its chat template cannot be used: {error}") from error
        return self.count(text)  # the template writes the special tokens itself

    def plain_ids(self) -> tuple[int, ...]:
        """Ids of the whole vocabulary, without special tokens."""
        special = set(self._hf.all_special_ids) | set(self._hf.added_tokens_decoder)
        return tuple(number for number in range(len(self._hf)) if number not in special)


@functools.lru_cache(maxsize=8)
def load_tokenizer(folder: str) -> TextTokenizer:
    """The tokenizer in `folder`; nothing is downloaded and no code of the folder runs. PlanError says what is wrong."""
    if not Path(folder).is_dir():
        raise PlanError(f"tokenizer: {folder} is not a folder; give the path of a downloaded model or tokenizer")
    try:
        transformers = importlib.import_module("transformers")
    except ImportError as error:
        problem = f"needs transformers, which cannot be imported ({error})"
        raise PlanError(f"tokenizer: {folder} {problem}; pip install 'pytest-llmperf[tokenizers]'") from error
    try:
        # The last one concerns decoding, which nothing here does; unset, transformers 4.45 warns at every load.
        options = {"local_files_only": True, "trust_remote_code": False, "clean_up_tokenization_spaces": False}
        hf = transformers.AutoTokenizer.from_pretrained(folder, **options)
    except (OSError, ValueError, KeyError, ImportError) as error:
        raise PlanError(f"tokenizer: {folder} cannot be loaded: {error}") from error
    return TextTokenizer(folder, hf)
