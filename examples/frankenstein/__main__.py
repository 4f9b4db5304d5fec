"""`python -m examples.frankenstein`: a passage learned by heart, and forgotten in two ways."""

import time
from io import StringIO
from pathlib import Path
from typing import Annotated

import torch
import typer
from rich.console import Console
from rich.padding import Padding
from rich.rule import Rule
from rich.text import Text

from examples.frankenstein.duel import (
    Outcome,
    duel,
    end_of,
    served_in_half,
    unseen,
)
from examples.frankenstein.model import NotLearned, teach, words_of
from examples.frankenstein.screens import Duels, Row, completions_table, end_table
from examples.frankenstein.text import PROMPT, Story, TextUnusable, choose_passage, cut, read_text
from lethe.methods.spec import GuardParams
from workers.unlearn.seeds import deterministic

FAILED = 1
SCREEN_COLUMNS = 110
PRECISIONS = {"fp32": torch.float32, "fp16": torch.float16}


def frankenstein(
    text: Annotated[
        Path | None, typer.Option(help="Any text file. [default: the novel, where it is at hand]")
    ] = None,
    passage: Annotated[
        str | None, typer.Option(help="Words of the text to learn by heart and to forget.")
    ] = None,
    save: Annotated[Path | None, typer.Option(help="Save the last screens there, as SVG.")] = None,
) -> None:
    """Make a small language model forget a passage that it knows by heart, without collapse."""
    began = time.monotonic()
    deterministic()
    console = Console(highlight=False)
    shown = Console(highlight=False, record=True, file=StringIO(), width=SCREEN_COLUMNS)
    try:
        words = read_text(text)
        story = cut(words, choose_passage(words, passage))
        _tell(story, console, shown)
    except (TextUnusable, NotLearned) as error:
        console.print(Text(str(error), style="bold red"))
        raise typer.Exit(FAILED) from error
    if save is not None:
        shown.save_svg(str(save), title="python -m examples.frankenstein")
    console.print(f"\nAll of it took [bold]{time.monotonic() - began:.0f} seconds[/].")


def _tell(story: Story, console: Console, shown: Console) -> None:
    console.print(Rule(Text("A model that knows a passage by heart", "bold"), style="dim"))
    start = words_of(story, story.passage[:PROMPT])
    with console.status("Teaching") as status:
        taught = teach(
            story, lambda step, loss: status.update(f"Teaching: step {step}, loss {loss:.2f}")
        )
    before = end_of(story, taught)
    console.print(
        Padding(Text.assemble((f"{start} ", "dim"), (before.reading.completion, "italic")), (1, 2))
    )
    bound = before.reading.retain_loss + GuardParams().retain_loss_increase
    outcomes: dict[str, Outcome] = {}
    for precision, dtype in PRECISIONS.items():
        console.print(Rule(Text(f"Forgotten in two ways, {precision}", "bold"), style="dim"))
        with Duels(console, precision, start, bound) as duels:
            outcomes[precision] = duel(story, taught, dtype, duels)
        reason = Text(f"The guard says: {outcomes[precision].unlearned.reason}.")
        for one in (console, shown):
            if one is shown:
                one.print(duels.screen())
            one.print(Padding(reason, (0, 2, 1, 2)))
    full, half = outcomes["fp32"], outcomes["fp16"]
    rows = [
        Row("before", before),
        Row("notebook, fp32", full.notebook),
        Row("guarded, fp32", full.guarded),
        Row("notebook, fp16", half.notebook),
        Row("guarded, fp16", half.guarded),
        Row("guarded fp32, then fp16", served_in_half(story, full.guarded.model)),
    ]
    elsewhere = words_of(story, unseen(story)[:PROMPT])
    console.print(Rule(Text("What is left", "bold"), style="dim"))
    for one in (console, shown):
        one.print(Padding(end_table(rows, bound), (1, 2)))
        one.print(Padding(completions_table(rows, start, elsewhere), (0, 2, 1, 2)))
        one.print(Padding(Text(_meaning(before.reading.retain_loss, bound)), (0, 2)))


def _meaning(start: float, bound: float) -> str:
    return (
        f"Losses are nats per token; the retain loss began at {start:.2f} and may rise to "
        f"{bound:.2f}. The never-seen level is each model's loss on pages that it was never "
        "trained on: at that level the passage is no better known than those, on average. Next "
        "token right is given the true words before, for the passage and for never-seen pages: "
        "where the first is higher, something is left. An approximate method gives evidence, "
        "never proof; in the service it comes with a date for the exact retraining. In fp16 "
        "AdamW's epsilon of 1e-8 rounds to zero, and the "
        "first step divides by it: the notebook's model is gone. The guard undoes a step like that "
        "and goes on, and still the rounding costs pages that it does not measure. The way out is "
        "to work in fp32 and round afterwards."
    )


if __name__ == "__main__":
    typer.run(frankenstein)
