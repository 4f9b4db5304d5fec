"""Runs wait for their time; rates are measured per class of worker."""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("run", sa.Column("not_before", sa.DateTime(timezone=True), nullable=True))
    op.add_column("worker", sa.Column("device", sa.String(), nullable=True))
    op.create_table(
        "measured_rate",
        sa.Column("model_id", sa.Uuid(), nullable=False),
        sa.Column("device", sa.String(), nullable=False),
        sa.Column("seconds_per_record_pass", sa.Double(), nullable=False),
        sa.Column("measured_at", sa.DateTime(timezone=True), nullable=False),
        sa.ForeignKeyConstraint(["model_id"], ["model.id"], name=op.f("fk_measured_rate_model_id")),
        sa.PrimaryKeyConstraint("model_id", "device", name=op.f("pk_measured_rate")),
    )
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON measured_rate TO lethe_app")
    # What was measured so far, by the newest version of each model on each device.
    op.execute(
        """
        INSERT INTO measured_rate (model_id, device, seconds_per_record_pass, measured_at)
        SELECT DISTINCT ON (model_id, environment->>'device')
            model_id, environment->>'device', seconds_per_record_pass, created_at
        FROM model_version
        WHERE seconds_per_record_pass IS NOT NULL AND environment->>'device' IS NOT NULL
        ORDER BY model_id, environment->>'device', created_at DESC
        """
    )
    op.drop_column("model_version", "seconds_per_record_pass")


def downgrade() -> None:
    op.add_column("model_version", sa.Column("seconds_per_record_pass", sa.Double(), nullable=True))
    op.execute(
        """
        UPDATE model_version SET seconds_per_record_pass = r.seconds_per_record_pass
        FROM measured_rate r
        WHERE r.model_id = model_version.model_id
            AND r.device = model_version.environment->>'device'
        """
    )
    op.drop_table("measured_rate")
    op.drop_column("worker", "device")
    op.drop_column("run", "not_before")
