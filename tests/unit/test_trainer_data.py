"""The trainer's text: reading, vocabulary, batches."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from tests.recorder import Recorded
from trainer import TrainerError, data, tokens


def test_a_folder_gives_its_input_txt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not this")
    (tmp_path / "input.txt").write_text("this")
    assert data.read_text(tmp_path).text == "this"


def test_a_folder_without_input_txt_gives_its_text_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second\n")
    (tmp_path / "a.txt").write_text("first")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "notes.md").write_text("no")
    (tmp_path / "c.txt").write_text("")
    assert data.read_text(tmp_path).text == "first\nsecond\n", "no line of one file goes on in the next"


def test_the_words_to_begin_with_are_of_a_line_that_is_not_indented(recorded: Recorded) -> None:
    recorded.cases(lambda text: "\n".join(data.first_words(text, reverse=reverse) for reverse in (False, True)))


def test_a_byte_order_mark_and_carriage_returns_are_no_characters_to_learn(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert data.read_text(tmp_path).text == "a\nb"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"aaaa", "nothing but 'a'"),
        (b"ab\ncd\xe9", r"input\.txt is not UTF-8: byte 0xe9 at offset 5 \(line 2\).*iconv -f ISO-8859-1"),
        (b"\xff\xfea\0b\0", r"byte 0xff at offset 0 \(line 1\).*iconv -f UTF-16"),
    ],
)
def test_a_text_to_learn_nothing_from_is_an_error(tmp_path: Path, content: bytes, said: str) -> None:
    (tmp_path / "input.txt").write_bytes(content)
    with pytest.raises(TrainerError, match=said):
        data.read_text(tmp_path)


def test_a_folder_without_text_says_what_it_holds(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="it is empty"):
        data.read_text(tmp_path)
    (tmp_path / "lyrics.csv").write_text("a,b")
    with pytest.raises(TrainerError, match=r"it holds lyrics\.csv"):
        data.read_text(tmp_path)


def test_a_missing_path_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(TrainerError, match="does not exist"):
        data.read_text(tmp_path / "data")


def test_the_vocabulary_is_by_frequency_then_by_appearance() -> None:
    assert data.vocabulary("banana 🎵 nnb") == ["n", "a", "b", " ", "🎵"]


def test_encoding_and_decoding_give_the_text_back() -> None:
    text = "Grüße 🎵\n" * 3
    characters = data.vocabulary(text)
    assert "".join(characters[place] for place in data.encode(text, characters)) == text


def test_encoding_names_the_characters_it_does_not_know() -> None:
    with pytest.raises(TrainerError, match=r"2 characters the model does not know: '\?' 'z'"):
        data.encode("abz?z", ["a", "b"])


def test_a_stream_goes_on_from_batch_to_batch_and_targets_are_one_ahead() -> None:
    batches = data.make_batches(np.arange(26, dtype=np.int32), batch_size=2, seq_length=4)
    assert batches.inputs.shape == batches.targets.shape == (3, 2, 4)
    assert batches.inputs[:, 0].ravel().tolist() == list(range(12))
    assert batches.inputs[:, 1].ravel().tolist() == list(range(12, 24))
    assert np.array_equal(batches.targets, batches.inputs + 1)


def test_the_last_character_is_followed_by_the_first() -> None:
    batches = data.make_batches(np.arange(8, dtype=np.int32), batch_size=2, seq_length=4)
    assert batches.targets[-1, -1, -1] == 0


def test_a_short_text_gets_a_smaller_batch() -> None:
    assert data.make_batches(np.zeros(120, np.int32), batch_size=50, seq_length=50).batch_size == 2


def test_a_text_shorter_than_a_sequence_is_an_error() -> None:
    assert len(data.make_batches(np.zeros(51, np.int32), batch_size=50, seq_length=50)) == 1
    with pytest.raises(TrainerError, match="50 characters, one sequence needs 51: give more text"):
        data.make_batches(np.zeros(50, np.int32), batch_size=50, seq_length=50)


WORDS = "to be or not to be, that's the question: to be'ing\n" * 3 + "isn't rare\n"


def test_words_and_letters_give_the_text_back() -> None:
    vocabulary = data.vocabulary(WORDS, "word")
    assert {"to", "be", "that's", "be'ing", " ", ",", ":", "\n"} < set(vocabulary)
    assert not {"isn't", "rare"} & set(vocabulary), "words seen once are spelt"
    assert vocabulary[0] == " "
    ids = data.encode(WORDS, vocabulary)
    assert "".join(vocabulary[place] for place in ids) == WORDS
    assert len(ids) < 0.6 * len(WORDS)


def test_any_word_of_known_letters_can_be_spelt() -> None:
    vocabulary = data.vocabulary("abc, abc, abc", "word")
    assert sorted(vocabulary) == [" ", ",", "a", "abc", "b", "c"]
    assert [vocabulary[place] for place in data.encode("cab abc", vocabulary)] == ["c", "a", "b", " ", "abc"]
    with pytest.raises(TrainerError, match="1 characters the model does not know: 'd'"):
        data.encode("abc abd", vocabulary)


def test_a_vocabulary_of_words_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tokens, "MOST_WORDS", 2)
    vocabulary = data.vocabulary("aa bb bb cc cc cc " * 3, "word")
    assert [token for token in vocabulary if len(token) > 1] == ["cc", "bb"]


@given(st.text(min_size=1))
def test_nothing_is_lost_at_either_level(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate: no UTF-8 file holds one
        assume(False)
    for level in tokens.LEVELS:
        vocabulary = data.vocabulary(text, level)
        assert len(set(vocabulary)) == len(vocabulary)
        assert "".join(vocabulary[place] for place in data.encode(text, vocabulary)) == text


def test_the_end_of_the_text_is_for_validation() -> None:
    text = "".join(chr(0x4E00 + n) for n in range(1000))
    vocabulary = data.vocabulary(text)
    material = data.prepare(text, vocabulary, batch_size=4, seq_length=10, val_fraction=0.1)
    assert material.validation is not None
    learned, tried = material.batches.inputs, material.validation.inputs
    assert learned.shape == (22, 4, 10), "900 characters"
    assert tried.shape == (10, 1, 10), "100 characters, in as few streams as so few allow"
    assert text[-100:].startswith(vocabulary[tried[0, 0, 0]])
    assert not np.isin(tried, learned).any()


def test_a_text_too_short_for_validation_is_learned_from_whole() -> None:
    text = "to be or not to be" * 10
    material = data.prepare(text, data.vocabulary(text), batch_size=4, seq_length=30, val_fraction=0.1)
    assert material.validation is None
    assert material.batches.inputs.size == 120


def test_backwards_is_the_same_text_from_its_end() -> None:
    text = "to be or not to be, " * 20
    vocabulary = data.vocabulary(text)
    material = data.prepare(text, vocabulary, batch_size=1, seq_length=10, val_fraction=0.25, reverse=True)
    assert material.validation is not None

    def read(batches: data.Batches) -> str:
        return "".join(vocabulary[place] for place in batches.inputs.ravel())

    assert read(material.batches) == text[:300][::-1]
    assert read(material.validation) == text[300:][::-1]


def test_a_token_of_words_has_more_than_one_character() -> None:
    text = "to be or not to be, " * 50
    material = data.prepare(text, data.vocabulary(text, "word"), batch_size=1, seq_length=10, val_fraction=0.2)
    assert material.characters_a_token == pytest.approx(20 / 13)
    assert material.characters_a_validation_token == pytest.approx(20 / 13)
