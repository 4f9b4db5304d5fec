"""The warm child of a compute worker: does the work of steps, ends when its parent's pipe closes.

It holds no database connection and no broker. It is spawned, never forked, so that CUDA may start
in it, and reused across steps, so that libraries are loaded and sources read once.
"""

import os
import signal
import traceback
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from app.core.errors import AppError
from app.execution.rules import (
    EraseJob,
    EvaluateJob,
    IndexJob,
    Job,
    TrainShardJob,
    UnlearnJob,
)
from workers.artifacts import ArtifactStore
from workers.messages import Done, Failed, Message, Progress, Stored
from workers.steps import Desk, Result
from workers.steps.erase import erase
from workers.steps.evaluate import evaluate
from workers.steps.index import index
from workers.steps.train import train
from workers.steps.unlearn import unlearn
from workers.unlearn.seeds import deterministic
from workers.unlearn.sisa import TrainingDiverged

WORK: dict[type, Callable[[Any, Desk], Result]] = {
    IndexJob: index,
    TrainShardJob: train,
    UnlearnJob: unlearn,
    EvaluateJob: evaluate,
    EraseJob: erase,
}


def serve(pipe: Connection, artifacts_url: str) -> None:
    """Do jobs from the pipe until it closes."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    deterministic()
    desk = Desk(
        store=ArtifactStore(artifacts_url),
        on_progress=lambda share: pipe.send(Progress(share)),
        on_checkpoint=lambda values: pipe.send(Stored(values)),
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
        return Failed(f"{error.detail} {error.next_step}", permanent=error.status < 500)
    except TrainingDiverged as error:
        return Failed(str(error), permanent=True)
    except (ValueError, FileNotFoundError) as error:
        # Raised by recipes, methods and checks, whose texts hold no value of a record.
        return Failed(_safe(error), permanent=True)
    except Exception as error:  # noqa: BLE001 the run boundary: it becomes a failed step
        return Failed(_safe(error), permanent=False)


def _safe(error: Exception) -> str:
    where = traceback.extract_tb(error.__traceback__)[-1]
    own = str(error) if type(error).__module__ == "builtins" and type(error) is ValueError else ""
    place = f"{type(error).__name__} in {where.name} ({os.path.basename(where.filename)})"  # noqa: PTH119
    return f"{own} [{place}]" if own else place
