"""Run migrations on the connection the store has opened."""

from alembic import context

from glmimage.jobs.schema import metadata

context.configure(
    connection=context.config.attributes["connection"],
    target_metadata=metadata,
    compare_type=True,
    transactional_ddl=False,  # the caller has begun, and commits
)
context.run_migrations()
