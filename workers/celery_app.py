"""The Celery application of both worker roles. Control workers never load torch."""

from app.core.config import load_settings
from app.core.logging import configure_logging
from app.core.queue import celery_app

configure_logging()
app = celery_app(load_settings().redis_url.get_secret_value())
app.conf.update(
    include=["workers.tasks"],
    beat_schedule={
        "sweep": {"task": "lethe.sweep", "schedule": 5.0, "options": {"expires": 5}},
        "watch-clocks": {
            "task": "lethe.watch_clocks",
            "schedule": 60.0,
            "options": {"expires": 60},
        },
        "sequence-log": {"task": "lethe.sequence_log", "schedule": 5.0, "options": {"expires": 5}},
    },
)
