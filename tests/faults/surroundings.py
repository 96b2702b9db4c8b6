"""What stands around a deployment: a PostgreSQL, a bucket; and the pictures as they should be."""

import asyncio
import importlib.util
import uuid
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import asyncpg

from glmimage.jobs import Prior
from glmimage.types import PictureReady, PriorReady
from glmimage.worker.revision import model_revision

from .bucket import Bucket
from .deployment import PROMPT, Deployment

ROOT = Path(__file__).parents[2]


class NoPostgres(Exception):
    """Say that the system has no PostgreSQL."""


@contextmanager
def running_postgres():
    """Start a PostgreSQL that may be stopped and started; raise NoPostgres."""
    path = ROOT / "scripts" / "postgres_server.py"
    spec = importlib.util.spec_from_file_location("postgres_server", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    binaries = module.find_binaries()
    if binaries is None:
        raise NoPostgres("PostgreSQL is not installed (Debian: apt-get install postgresql)")
    server = module.Server(binaries, fsync=False)
    try:
        server.wait_until_ready()
        yield server
    finally:
        server.stop()


def new_database(postgres):
    """Make an empty database and return its address."""
    name = f"faults_{uuid.uuid4().hex[:12]}"

    async def create():
        connection = await asyncpg.connect(postgres.address)
        await connection.execute(f"CREATE DATABASE {name}")
        await connection.close()

    asyncio.run(create())
    return postgres.address.replace("/postgres", f"/{name}")


@contextmanager
def bucket_and_database(folder, model, database, settings):
    """Give a deployment and its PostgreSQL: on SQLite and a folder, or on PostgreSQL and S3."""
    if database == "sqlite":
        service, postgres = Deployment(folder / "service", model, **settings), None
        try:
            yield service, postgres
        finally:
            service.close()
        return
    with running_postgres() as postgres, Bucket() as bucket:
        places = {"database_url": new_database(postgres), "files_url": bucket.url}
        service = Deployment(folder / "service", model, **settings, **places)
        try:
            yield service, postgres
        finally:
            service.close()


class WrittenPrior(NamedTuple):
    """Hold the prior of a seed, and the name of the model that wrote it."""

    prior: Prior
    revision: str


class Painter:
    """Return the PNG of a seed, painted without any service."""

    def __init__(self, model, num_inference_steps, guidance_scale=None):
        self.model, self.num_inference_steps = model, num_inference_steps
        self.guidance = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
        self._painted = {}

    def __call__(self, seed=7, num_inference_steps=None):
        return self._paint(seed, num_inference_steps or self.num_inference_steps)[0]

    def written_prior(self, seed=7):
        """Return what a worker of the prior stage would have stored."""
        found = self._paint(seed, self.num_inference_steps)[1]
        revision = model_revision(self.model, "cpu", "torch.float32", "torch.float32")
        return WrittenPrior(Prior(0, found.large_grid, found.prior_token_ids), revision)

    def _paint(self, seed, steps):
        if (seed, steps) not in self._painted:
            self._painted[seed, steps] = self._paint_seed(seed, steps)
        return self._painted[seed, steps]

    def _paint_seed(self, seed, steps):
        import torch

        from glmimage.output import encode_picture
        from glmimage.pipeline import Pipeline

        torch.set_num_threads(1)
        options = {"num_inference_steps": steps, "seed": seed} | self.guidance
        with Pipeline.load(str(self.model), "cpu", "float32") as pipe:
            events = list(pipe.stream(PROMPT, width=512, height=512, **options))
        (prior,) = (event for event in events if isinstance(event, PriorReady))
        (picture,) = (event for event in events if isinstance(event, PictureReady))
        return encode_picture(picture.image, "png"), prior
