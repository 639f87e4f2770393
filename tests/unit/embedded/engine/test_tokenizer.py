"""Text -> tokens -> text loses nothing, and common words cost one token."""

from hypothesis import given
from hypothesis import strategies as st

from pytest_llmperf.embedded.engine import tokenizer
from pytest_llmperf.embedded.engine.vocabulary import WORDS


@given(st.text())
def test_any_text_comes_back(text):
    assert tokenizer.decode(tokenizer.encode(text)) == text


@given(st.lists(st.integers(0, tokenizer.VOCAB_SIZE - 1)))
def test_a_stream_of_tokens_gives_the_text_of_the_whole(tokens):
    stream = tokenizer.Detokenizer()
    pieces = [stream.add(token, last=index == len(tokens) - 1) for index, token in enumerate(tokens)]
    assert "".join(pieces) == tokenizer.decode(tokens)


def test_a_character_is_held_back_until_it_is_whole():
    stream = tokenizer.Detokenizer()
    assert [stream.add(token) for token in "é".encode()] == ["", "é"]


def test_a_common_word_is_one_token():
    assert len(tokenizer.encode("word word word")) == 3
    assert len(tokenizer.encode(" ".join(WORDS))) == len(WORDS)


def test_ids_are_distinct_and_within_the_vocabulary():
    assert len(set(WORDS)) == len(WORDS) >= 1000
    assert len(set(tokenizer.WORD_TOKENS)) == len(WORDS)
    assert max(tokenizer.WORD_TOKENS) < tokenizer.EOS < tokenizer.VOCAB_SIZE


def test_the_chat_template_adds_three_tokens_to_a_lone_message():
    tokens = tokenizer.encode_chat([("user", "word word")])
    assert len(tokens) == 2 + 3
    assert tokenizer.decode(tokens) == "word word"
    assert len(tokenizer.encode_chat([("unheard of", "word")])) == 1 + 3
