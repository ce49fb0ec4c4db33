"""Texts cut into words, in any script."""

from tokenizers import Regex, pre_tokenizers

_UNSPACED = r"\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}\p{Tibetan}"
_PIECE = rf"[{_UNSPACED}]\p{{M}}*|[[\p{{L}}\p{{M}}\p{{N}}_]&&[^{_UNSPACED}]]+|\s+|\S"
_SPLIT = pre_tokenizers.Split(Regex(_PIECE), "isolated")


def pieces(text: str) -> list[str]:
    """Cut a text into pieces that together are the text.

    A piece is a run of letters with their marks, digits and underscores; one character, with its marks, of a script
    that puts no spaces between words; a run of white space; or one sign of any other kind.
    """
    return [piece for piece, _ in _SPLIT.pre_tokenize_str(text)]


def tokens(text: str) -> list[str]:
    """The pieces of a text but its white space, in lower case."""
    return [piece for piece in pieces(text.lower()) if not piece.isspace()]


def words(text: str) -> list[str]:
    """The tokens of a text that are no signs."""
    return [token for token in tokens(text) if is_word(token)]


def is_word(piece: str) -> bool:
    """Whether a piece is of letters or digits."""
    return any(character.isalnum() or character == "_" for character in piece)
