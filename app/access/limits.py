"""How large a body may be: enough for any call of ours, too little to fill the memory."""

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from app.access.problems import answer
from app.core.errors import problem

MOST_BYTES = 1 << 20


class BodyLimit:
    """Answers 413 to a body of more than a mebibyte, announced or not, without keeping it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass a call on, its body counted."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = dict(scope["headers"])
        announced = headers.get(b"content-length", b"0")
        if announced.isdigit() and int(announced) > MOST_BYTES:
            await _too_large(scope, receive, send)
            return
        body, more = bytearray(), True
        while more:
            message = await receive()
            if message["type"] != "http.request":
                return
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > MOST_BYTES:
                await _too_large(scope, receive, send)
                return
        whole: list[Message] = [{"type": "http.request", "body": bytes(body), "more_body": False}]

        async def replay() -> Message:
            return whole.pop() if whole else await receive()

        await self._app(scope, replay, send)


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    detail = f"The body is larger than {MOST_BYTES} bytes."
    refused = problem("body-too-large", 413, detail, "Send less; large data goes by URI.")
    await answer(refused)(scope, receive, send)
