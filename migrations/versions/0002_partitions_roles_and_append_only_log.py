"""Partitions of the record index, the serving role's grants, the append-only log."""

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

PARTITIONS = 32
APPEND_ONLY = ("audit_leaf", "audit_node", "tree_head")


def upgrade() -> None:
    # An index-only scan answers a trace: the payload columns ride in the primary key's index.
    op.execute("ALTER TABLE subject_record DROP CONSTRAINT pk_subject_record")
    op.execute(
        "ALTER TABLE subject_record ADD CONSTRAINT pk_subject_record "
        "PRIMARY KEY (subject_key, dataset_version_id, record_no) "
        "INCLUDE (bucket, role, owner_key)"
    )
    for remainder in range(PARTITIONS):
        op.execute(
            f"CREATE TABLE subject_record_p{remainder:02d} PARTITION OF subject_record "
            f"FOR VALUES WITH (MODULUS {PARTITIONS}, REMAINDER {remainder})"
        )
    op.execute(
        """
        DO $$ BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'lethe_app') THEN
                CREATE ROLE lethe_app NOLOGIN;
            END IF;
        END $$
        """
    )
    op.execute("GRANT USAGE ON SCHEMA public TO lethe_app")
    op.execute("GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA public TO lethe_app")
    op.execute("GRANT USAGE ON ALL SEQUENCES IN SCHEMA public TO lethe_app")
    op.execute("REVOKE ALL ON alembic_version FROM lethe_app")
    op.execute("GRANT SELECT ON alembic_version TO lethe_app")
    op.execute(
        """
        CREATE FUNCTION refuse_change() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION 'the audit log is append-only: % on %', TG_OP, TG_TABLE_NAME;
        END $$
        """
    )
    for table in APPEND_ONLY:
        op.execute(f"REVOKE UPDATE, DELETE, TRUNCATE ON {table} FROM lethe_app")
        op.execute(
            f"CREATE TRIGGER append_only BEFORE UPDATE OR DELETE OR TRUNCATE ON {table} "
            "FOR EACH STATEMENT EXECUTE FUNCTION refuse_change()"
        )
    # A pending entry may only move into the log, unchanged.
    op.execute("REVOKE UPDATE, TRUNCATE ON audit_pending FROM lethe_app")


def downgrade() -> None:
    for table in APPEND_ONLY:
        op.execute(f"DROP TRIGGER append_only ON {table}")
    op.execute("DROP FUNCTION refuse_change()")
    op.execute("REVOKE ALL ON ALL TABLES IN SCHEMA public FROM lethe_app")
    op.execute("REVOKE ALL ON ALL SEQUENCES IN SCHEMA public FROM lethe_app")
    op.execute("REVOKE USAGE ON SCHEMA public FROM lethe_app")
    for remainder in range(PARTITIONS):
        op.execute(f"DROP TABLE subject_record_p{remainder:02d}")
    op.execute("ALTER TABLE subject_record DROP CONSTRAINT pk_subject_record")
    op.execute(
        "ALTER TABLE subject_record ADD CONSTRAINT pk_subject_record "
        "PRIMARY KEY (subject_key, dataset_version_id, record_no)"
    )
