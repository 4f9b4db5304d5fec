"""A text as examples: one passage to learn by heart, most of the rest to keep, some never seen."""

import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from tokenizers import Tokenizer
from tokenizers.decoders import ByteLevel as ByteLevelDecoder
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast

from lethe.recipes.local_folder import folder_digest
from workers.recipes import make_task
from workers.unlearn.task import Examples, Task

NOVEL = "frankenstein.txt"
DATA = "LETHE_TEST_DATA"
NEARBY = Path("../shared/data")
FAMOUS = (
    "It was on a dreary night of November that I beheld the accomplishment of my toils. With an "
    "anxiety that almost amounted to agony, I collected the instruments of life around me, that I "
    "might infuse a spark of being into the lifeless thing that lay at my feet."
)

VOCABULARY = 1024
PROMPT = 8
"""Tokens of the passage that are given; the model says the rest."""
SHORTEST, LONGEST = 3 * PROMPT, 192
FEWEST_WINDOWS, MOST_WINDOWS = 300, 1_800
HOLDOUT_WINDOWS = 96
END, BEGIN = "<end>", 0
"""The one special token is the first, and stands at the beginning too."""


class TextUnusable(Exception):
    """The text, or the passage, will not do; the message says why and what to do."""


@dataclass(frozen=True)
class Story:
    """A text cut up for a small language model.

    Attributes:
        task: The model's recipe, with a tokenizer fitted to the text.
        tokenizer: Turns tokens back into words.
        passage: The tokens to learn by heart and to forget, without special ones.
        forget: The passage as one example.
        retain: Every other window of the text but the last ones.
        holdout: The last windows, never trained on.
    """

    task: Task
    tokenizer: Tokenizer
    passage: list[int]
    forget: Examples
    retain: Examples
    holdout: Examples


def read_text(named: Path | None) -> str:
    """Read the file named, or else the novel where test data are kept; spaces become single.

    Raises:
        TextUnusable: There is no such file, or it is no text.
    """
    path = named or Path(os.environ.get(DATA) or NEARBY) / NOVEL
    try:
        return " ".join(path.read_text(encoding="utf-8").split())
    except FileNotFoundError as error:
        where = "there" if named else "in the default place"
        raise TextUnusable(
            f"No text is {where} ({path}). Name any text file with --text FILE; the novel itself "
            "is free, for instance from Project Gutenberg, number 84."
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise TextUnusable(f"{path} cannot be read as a text in UTF-8.") from error


def choose_passage(text: str, named: str | None) -> str:
    """Return the passage named, the famous one where the text has it, or one from the middle.

    Raises:
        TextUnusable: The text does not hold the passage that was named.
    """
    passage = FAMOUS if named is None else " ".join(named.split())
    if passage and passage in text:
        return passage
    if named is not None:
        raise TextUnusable("The text does not hold this passage, word for word.")
    middle = text.find(". ", len(text) // 2) + len(". ")
    return text[middle : middle + len(FAMOUS)].rpartition(" ")[0]


def cut(text: str, passage: str) -> Story:
    """Cut a text into examples of one length, the passage's; no window holds any of the passage.

    The tokenizer is fitted to the text, passage included. In the service it would be an artifact
    of its own, and erased too; here only the weights are looked at.

    Raises:
        TextUnusable: The passage is too short or too long, or the text too short.
    """
    tokenizer = _fit(text)
    ids = tokenizer.encode(passage).ids
    if not SHORTEST <= len(ids) <= LONGEST:
        raise TextUnusable(
            f"The passage has {len(ids)} tokens; {SHORTEST} to {LONGEST} will do, which is about "
            f"{SHORTEST // 2} to {LONGEST // 2} words."
        )
    windows = [
        window
        for part in text.split(passage)
        for window in _windows(tokenizer.encode(part).ids, len(ids))
    ][:MOST_WINDOWS]
    if len(windows) < FEWEST_WINDOWS:
        raise TextUnusable(
            f"The text is too short: {len(windows)} windows as long as the passage, and "
            f"{FEWEST_WINDOWS} are needed. Name a longer text, or a shorter passage."
        )
    return Story(
        task=_task(tokenizer, len(ids) + 1),
        tokenizer=tokenizer,
        passage=ids,
        forget=_examples([ids]),
        retain=_examples(windows[:-HOLDOUT_WINDOWS]),
        holdout=_examples(windows[-HOLDOUT_WINDOWS:]),
    )


def _fit(text: str) -> Tokenizer:
    tokenizer = Tokenizer(BPE())
    tokenizer.pre_tokenizer = ByteLevel(add_prefix_space=False)
    tokenizer.decoder = ByteLevelDecoder()
    trainer = BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[END],
        initial_alphabet=ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([text], trainer)
    return tokenizer


def _windows(ids: Sequence[int], length: int) -> list[Sequence[int]]:
    return [ids[at : at + length] for at in range(0, len(ids) - length + 1, length)]


def _examples(windows: Sequence[Sequence[int]]) -> Examples:
    tokens = torch.tensor([[BEGIN, *window] for window in windows])
    return {"tokens": tokens, "length": torch.full((len(windows),), tokens.shape[1])}


def _task(tokenizer: Tokenizer, length: int) -> Task:
    with tempfile.TemporaryDirectory() as folder:
        saved = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
            tokenizer_object=tokenizer, eos_token=END
        )
        saved.save_pretrained(folder)
        return make_task(
            "causal_lm",
            {
                "text": "text",
                "tokenizer": {"path": folder, "sha256": folder_digest(Path(folder))},
                "max_tokens": length,
                "config": {
                    "model_type": "gpt_neox",
                    "num_hidden_layers": 2,
                    "hidden_size": 128,
                    "num_attention_heads": 4,
                    "intermediate_size": 512,
                    "max_position_embeddings": length,
                    "hidden_dropout": 0,
                    "attention_dropout": 0,
                },
            },
        )
