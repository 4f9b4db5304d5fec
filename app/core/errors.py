"""Errors that say what to do next.

A subclass names its HTTP status and slug; its docstring is the default message. One handler in
`app.main` renders them as RFC 9457 problem details. No message ever holds a person's identifier.
"""

from typing import Any, ClassVar

Problem = dict[str, Any]


def problem(slug: str, status: int, detail: str, advice: str) -> Problem:
    """Return the members of an RFC 9457 problem, with advice; also kept with a failed run."""
    return {
        "type": f"/problems/{slug}",
        "title": slug.replace("-", " ").capitalize(),
        "status": status,
        "detail": detail,
        "advice": advice,
    }


class AppError(Exception):
    """Something went wrong."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal"
    advice: ClassVar[str] = "Try again; if it happens again, look at the service's log."

    def __init__(self, detail: str | None = None, *, advice: str | None = None, **extra: object):
        """Keep what happened (`detail`), what to do next (`advice`) and machine-readable facts."""
        self.detail = detail or (type(self).__doc__ or "").strip()
        self.next_step = advice or type(self).advice
        self.extra = extra
        super().__init__(self.detail)

    @property
    def problem(self) -> Problem:
        """This error as an RFC 9457 problem."""
        return problem(self.slug, self.status, self.detail, self.next_step) | self.extra


class NotFoundError(AppError):
    """There is nothing here under that name."""

    status = 404
    slug = "not-found"
    advice = "Check the id or the name; list the collection to see what exists."


class InvalidInputError(AppError):
    """The request does not make sense."""

    status = 422
    slug = "invalid-input"
    advice = "Correct the named field and send it again."


class ConflictError(AppError):
    """The request does not fit the present state."""

    status = 409
    slug = "conflict"
    advice = "Read the resource's present state first."


class UnauthenticatedError(AppError):
    """No valid API key came with the request."""

    status = 401
    slug = "unauthenticated"
    advice = "Send `Authorization: Bearer <api key>`; `lethe keys create` makes one."


class ForbiddenError(AppError):
    """This API key's role may not do that."""

    status = 403
    slug = "forbidden"
    advice = "Use a key whose role may; the error names the roles."


class SecretMissingError(AppError):
    """A secret that the service needs is not configured."""

    slug = "secret-missing"
    advice = "Run `lethe keys init`, or set the LETHE_* variables named in the README."
