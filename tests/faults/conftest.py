"""Deployments to break, and the pictures that must come out of them all the same."""

import pytest

from .bucket import Bucket
from .deployment import Deployment
from .proxy import FaultProxy
from .surroundings import NoPostgres, Painter, new_database, running_postgres


@pytest.fixture
def deploy(tmp_path, tiny_dir):
    """Give the function that makes a deployment; whatever it has started is killed at the end."""
    made = []

    def make(name="service", **variables):
        made.append(Deployment(tmp_path / name, tiny_dir, **variables))
        return made[-1]

    yield make
    for deployment in made:
        deployment.close()


@pytest.fixture(scope="session")
def expected(tiny_dir):
    """Give the function that returns the PNG of a seed, painted without any service."""
    return Painter(tiny_dir, num_inference_steps=2)


@pytest.fixture(scope="session")
def written(expected):
    """Give the prior of seed 7, for tests that are about the other half."""
    return expected.written_prior(7)


@pytest.fixture(scope="session")
def postgres():
    """Start a PostgreSQL that tests may stop and start, or skip."""
    try:
        with running_postgres() as server:
            yield server
    except NoPostgres as error:
        pytest.skip(str(error))


@pytest.fixture
def database(postgres):
    """Make an empty database and return its address."""
    return new_database(postgres)


@pytest.fixture
def proxy(postgres):
    """Stand between the product and PostgreSQL; the port is `proxy.port`."""
    with FaultProxy(("127.0.0.1", postgres.port)) as between:
        yield between


@pytest.fixture
def through_proxy(database, postgres, proxy):
    """Return the database's address by way of the proxy."""
    return database.replace(f":{postgres.port}/", f":{proxy.port}/")


@pytest.fixture
def bucket():
    """Start an S3 server whose writes can be refused, with a bucket in it."""
    with Bucket() as running:
        yield running
