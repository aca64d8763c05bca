from __future__ import annotations

import numpy as np
import pytest

from gptbayes.corpus import (
    UNK,
    Vocabulary,
    cut,
    keep_frequent,
    read_text,
    split,
    zen_of_python,
)


def test_zen_is_read_without_being_printed(capsys):
    zen = zen_of_python()
    assert zen.startswith("The Zen of Python, by Tim Peters")
    assert len(zen) == 856
    assert capsys.readouterr().out == ""


def test_vocabulary_encodes_and_decodes():
    vocabulary = Vocabulary.of("banana")
    assert vocabulary.characters == ("a", "b", "n")
    assert vocabulary.encode("nab").tolist() == [2, 0, 1]
    assert vocabulary.decode(vocabulary.encode("banana")) == "banana"


def test_unknown_character_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'x' not in the vocabulary, which has: 'a' 'b' 'n'"):
        Vocabulary.of("banana").encode("bax")


def test_disjoint_windows_count_every_target_once():
    tokens = np.arange(23)
    x, y = cut(tokens, 5)
    assert x.shape == y.shape == (4, 5)
    np.testing.assert_array_equal(y, x + 1)
    np.testing.assert_array_equal(y.ravel(), np.arange(1, 21))


def test_overlapping_windows_repeat_targets():
    _, y = cut(np.arange(23), 5, stride=2)
    assert np.bincount(y.ravel()).max() == 3


def test_held_out_targets_are_never_trained_on():
    training, held_out = split(np.arange(101), 5, held_out_fraction=0.25)
    assert training.y.max() < held_out.y.min()
    assert len(training.x) == 15
    assert len(held_out.x) == 5
    np.testing.assert_array_equal(held_out.y, held_out.x + 1)


def test_split_refuses_short_text_and_large_batches():
    with pytest.raises(ValueError, match="11 characters, got 10"):
        split(np.arange(10), 5)
    assert len(split(np.arange(11), 5).training.x) == 1
    with pytest.raises(ValueError, match="batch_size must be at most 8"):
        split(np.arange(51), 5, batch_size=9)


def test_rare_characters_are_replaced():
    assert keep_frequent("aabbbc", 2) == "aabbb" + UNK
    with pytest.raises(ValueError, match="must be a positive integer, got 0"):
        keep_frequent("abc", 0)


def test_text_in_any_script_with_any_line_ends(tmp_path):
    path = tmp_path / "text"
    path.write_bytes("\ufeffγνῶθι\r\nσεαυτόν".encode())
    assert read_text(path) == "γνῶθι\nσεαυτόν"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b" \n ", "is empty"),
        (b"ELF\0\1\2", "is a binary file"),
        ("café".encode("latin-1"), "byte 0xe9 at offset 3"),
    ],
)
def test_unreadable_text_raises(tmp_path, content, message):
    path = tmp_path / "text"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=message):
        read_text(path)


def test_missing_file_and_folder(tmp_path):
    with pytest.raises(ValueError, match="does not exist"):
        read_text(tmp_path / "none")
    with pytest.raises(ValueError, match="is a folder"):
        read_text(tmp_path)
