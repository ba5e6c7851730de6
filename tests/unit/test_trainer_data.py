"""The trainer's text: reading, vocabulary, batches."""

from pathlib import Path

import numpy as np
import pytest

from trainer import TrainerError, data


def test_a_folder_gives_its_input_txt(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("not this")
    (tmp_path / "input.txt").write_text("this")
    assert data.read_text(tmp_path).text == "this"


def test_a_folder_without_input_txt_gives_its_text_files_by_name(tmp_path: Path) -> None:
    (tmp_path / "b.txt").write_text("second")
    (tmp_path / "a.txt").write_text("first ")
    (tmp_path / ".hidden.txt").write_text("no")
    (tmp_path / "notes.md").write_text("no")
    assert data.read_text(tmp_path).text == "first second"


def test_a_byte_order_mark_and_carriage_returns_are_no_characters_to_learn(tmp_path: Path) -> None:
    (tmp_path / "input.txt").write_bytes(b"\xef\xbb\xbfa\r\nb")
    assert data.read_text(tmp_path).text == "a\nb"


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"\xef\xbb\xbf", "is empty"),
        (b"aaaa", "nothing but 'a'"),
        (b"ab\ncd\xe9", r"input\.txt is not UTF-8: byte 0xe9 at offset 5 \(line 2\)"),
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
