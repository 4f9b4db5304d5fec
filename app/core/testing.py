"""Stand-ins for tests, ours and other people's: typed, and as small as what they stand for."""

from app.core.queue import Bell


class RecordingDoorbell:
    """A `Doorbell` that sends nothing and keeps what it was asked to send, in order."""

    def __init__(self) -> None:
        self.bells: list[Bell] = []

    def send(self, bell: Bell) -> None:
        """Keep one wake-up."""
        self.bells.append(bell)
