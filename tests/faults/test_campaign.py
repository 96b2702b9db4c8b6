"""The campaign, cut short: on both databases, a few jobs under fire."""

import pytest

from .campaign import SETTINGS, STEPS, Campaign, failed
from .surroundings import NoPostgres, bucket_and_database

NUM_JOBS = 6


@pytest.mark.parametrize("database", ["sqlite", "postgresql"])
def test_every_job_ends_once_with_its_picture(tmp_path, tiny_dir, expected, database):
    try:
        with bucket_and_database(tmp_path, tiny_dir, database, SETTINGS) as (service, postgres):
            campaign = Campaign(service, NUM_JOBS, [7, 8], 1.0, postgres)
            report = campaign.run()
            report |= campaign.compare(lambda seed: expected(seed, STEPS))
    except NoPostgres as error:
        pytest.skip(str(error))
    assert failed(report) == {}, report
    assert report["jobs accepted"] == NUM_JOBS
    assert report["ended exactly once"] == report["pictures equal to generate()"] >= NUM_JOBS
    assert sum(report["kills"].values()) >= 1, report
