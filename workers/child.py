"""The warm child of a compute worker: does the work of steps, ends when its parent's pipe closes.

It holds no database connection and no broker. It is spawned, never forked, so that CUDA may start
in it, and reused across steps, so that libraries are loaded and sources read once.
"""

import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import torch
from pydantic import ValidationError

from app.core.errors import AppError, Problem, problem
from app.manifest.rules import (
    EraseJob,
    EvaluateJob,
    IndexJob,
    Job,
    RemoveJob,
    TrainShardJob,
    UnlearnJob,
)
from lethe.recipes import UnknownRecipe
from workers.artifacts import ArtifactStore
from workers.messages import Done, Failed, Message, Progress, Ready, Stored
from workers.steps import Desk, Result
from workers.steps.erase import erase
from workers.steps.evaluate import evaluate
from workers.steps.index import index
from workers.steps.remove import remove
from workers.steps.train import train
from workers.steps.unlearn import unlearn
from workers.unlearn.seeds import deterministic, device, environment
from workers.unlearn.sisa import TrainingDiverged


class OutOfMemory(AppError):
    """The step needs more memory than its worker has."""

    slug = "out-of-memory"
    advice = (
        "Lower the batch size or the length of the texts, or run a worker with more memory, then "
        "retry; the model is untouched."
    )


WORK: dict[type, Callable[[Any, Desk], Result]] = {
    IndexJob: index,
    TrainShardJob: train,
    UnlearnJob: unlearn,
    RemoveJob: remove,
    EvaluateJob: evaluate,
    EraseJob: erase,
}
OWN_TEXT = frozenset({ValueError, TrainingDiverged, UnknownRecipe})
STEP_ADVICE = "Correct the recipe, its parameters or the data, then retry; the model is untouched."


def serve(pipe: Connection, artifacts_url: str) -> None:
    """Do jobs from the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    deterministic()
    pipe.send(Ready(environment()["device"]))
    desk = Desk(
        store=ArtifactStore(artifacts_url),
        on_progress=lambda share: pipe.send(Progress(share)),
        on_checkpoint=lambda values: pipe.send(Stored(values)),
        device=device(),
    )
    while True:
        try:
            job: Job = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send(do(job, desk))
        except BrokenPipeError:
            os._exit(1)


def do(job: Job, desk: Desk) -> Message:
    """Do one job; an error becomes a `Failed` that names where, and never what a record says."""
    try:
        return Done(WORK[type(job)](job, desk))
    except BrokenPipeError:  # the parent is gone: there is nobody to tell
        raise
    except AppError as error:
        return Failed(error.problem, permanent=error.status < 500)
    except (ValueError, FileNotFoundError, TrainingDiverged) as error:
        # Raised by recipes, methods and checks, whose texts hold no value of a record.
        return Failed(_problem("step-refused", str(error), error), permanent=True)
    except Exception as error:  # noqa: BLE001 the run boundary: it becomes a failed step
        if _out_of_memory(error):
            return Failed(OutOfMemory().problem, permanent=False)
        return Failed(_problem("step-crashed", "The step crashed.", error), permanent=False)


def _out_of_memory(error: Exception) -> bool:
    # On the CPU torch has no type for it.
    told = isinstance(error, RuntimeError) and "can't allocate memory" in str(error)
    return told or isinstance(error, MemoryError | torch.OutOfMemoryError)


def _problem(slug: str, detail: str, error: Exception) -> Problem:
    """Say where an error came from; only texts that are known to be safe are passed on."""
    if isinstance(error, ValidationError):
        # Of a recipe's or a method's parameters; what is wrong with each, never what it holds.
        wrong = error.errors(include_input=False, include_url=False)
        own = "; ".join(f"{'.'.join(map(str, one['loc']))}: {one['msg']}" for one in wrong)
    else:
        own = detail if type(error) in OWN_TEXT else type(error).__name__
    place = traceback.extract_tb(error.__traceback__)[-1]
    where = f"{Path(place.filename).name}, {place.name}"
    return problem(slug, 500, f"{own} ({where})", STEP_ADVICE)
