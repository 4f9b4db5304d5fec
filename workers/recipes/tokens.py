"""Text to tokens, by a fixed public rule: bytes, or a tokenizer that was made elsewhere.

A tokenizer fitted to the records would hold their influence, and erasing would have to rebuild it.
"""

from collections.abc import Callable
from dataclasses import dataclass

from transformers import AutoTokenizer

from lethe.recipes.local_folder import LocalFolder


@dataclass(frozen=True)
class Tokenizer:
    """How text becomes numbers.

    Attributes:
        ids: the tokens of a text, without special ones.
        decode: the text of tokens; special ones and broken characters among them do no harm.
        bos: the token before a text.
        eos: the token after a text.
        pad: the token that fills what is left of a row, where it is not counted.
        size: the number of tokens that a model needs.
    """

    ids: Callable[[str], list[int]]
    decode: Callable[[list[int]], str]
    bos: int
    eos: int
    pad: int
    size: int

    def encode(self, text: str, max_tokens: int) -> list[int]:
        """Beginning, text and end in at most `max_tokens` tokens; a text that is cut has no end."""
        return [self.bos, *self.ids(text), self.eos][:max_tokens]


def byte_tokenizer() -> Tokenizer:
    """UTF-8 bytes as tokens 0 to 255, then beginning, end and padding: 259 in all."""
    return Tokenizer(
        ids=lambda text: list(text.encode("utf-8", "replace")),
        decode=lambda ids: bytes(i for i in ids if i < 256).decode("utf-8", "replace"),
        bos=256,
        eos=257,
        pad=258,
        size=259,
    )


def local_tokenizer(folder: LocalFolder) -> Tokenizer:
    """A tokenizer saved by `transformers` in a local folder; nothing is fetched from a hub.

    Where a text has no beginning and end, those of a class and a separator are taken, as BERT has.

    Raises:
        FileNotFoundError: there is no such folder.
        ValueError: its content is another than registered, or it has no end-of-text token, or no
            tokens of text.
    """
    tokenizer = AutoTokenizer.from_pretrained(folder.verified(), local_files_only=True)
    eos, bos = tokenizer.eos_token_id, tokenizer.bos_token_id
    if eos is None:
        eos, bos = tokenizer.sep_token_id, tokenizer.cls_token_id
    if not isinstance(eos, int):
        raise ValueError("the tokenizer has no end-of-text token: give it one and save it again")
    # What `transformers` makes of a folder with a model alone, and every text would be empty.
    if len(tokenizer) == len(set(tokenizer.all_special_ids)):
        raise ValueError("the tokenizer's folder holds no tokenizer: save it there with its files")
    return Tokenizer(
        ids=lambda text: tokenizer.encode(text, add_special_tokens=False),
        decode=lambda ids: str(tokenizer.decode(ids, skip_special_tokens=True)),
        bos=bos if isinstance(bos, int) else eos,
        eos=eos,
        pad=eos,
        size=len(tokenizer),
    )
