"""The number of threads follows what is faster, and trials of the other one stay rare."""

import pytest
import torch

from glmimage.thread_choice import (
    FIRST_WAIT,
    LONGEST_WAIT,
    SLOW_PASSES,
    TRIAL_PASSES,
    ThreadChoice,
)

WORK = 16


class Machine:
    """Time that passes by the number of threads: seconds a unit."""

    def __init__(self, **cost):
        self.now, self.cost, self.used = 0.0, cost, []

    def passes(self, choice, number):
        for _ in range(number):
            with choice.chosen(WORK):
                count = torch.get_num_threads()
                self.used.append(count)
                self.now += WORK * self.cost["one" if count == 1 else "all"]


@pytest.fixture(autouse=True)
def four_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(4)
    yield
    left = torch.get_num_threads()
    torch.set_num_threads(before)
    assert left == 4


def run(number, **cost):
    machine = Machine(**cost)
    choice = ThreadChoice(lambda: machine.now)
    machine.passes(choice, number)
    return machine, choice


def test_all_threads_are_taken_where_they_are_faster():
    machine, choice = run(200, one=1.0, all=0.7)
    tried = FIRST_WAIT // WORK
    assert machine.used[:tried] == [1] * tried
    assert choice.threads == 4
    assert machine.used[tried : tried + 10] == [4] * 10


def test_trials_that_are_lost_become_rare():
    machine, choice = run(2 * LONGEST_WAIT // WORK, one=1.0, all=8.0)
    assert choice.threads == 1
    assert 0 < machine.used.count(4) <= 10 * TRIAL_PASSES
    assert 4 not in machine.used[-LONGEST_WAIT // WORK // 2 :]


def test_a_machine_that_becomes_busy_is_noticed_at_once_and_one_that_is_idle_again_later():
    machine, choice = run(100, one=1.0, all=0.7)
    machine.cost["all"] = 8.0
    machine.passes(choice, SLOW_PASSES + TRIAL_PASSES)
    assert choice.threads == 1
    machine.cost["all"] = 0.7
    machine.passes(choice, 2 * FIRST_WAIT // WORK)
    assert choice.threads == 4


def test_a_pass_that_is_slow_by_chance_changes_nothing():
    machine, choice = run(100, one=1.0, all=0.7)
    usual, machine.cost["all"] = machine.cost["all"], 8.0
    machine.passes(choice, 1)
    machine.cost["all"] = usual
    before = len(machine.used)
    machine.passes(choice, FIRST_WAIT // WORK // 2)
    assert set(machine.used[before:]) == {4}


def test_a_pass_that_fails_is_not_counted():
    machine, choice = run(FIRST_WAIT // WORK, one=1.0, all=0.7)  # now the trial
    with pytest.raises(ValueError, match="broken"), choice.chosen(WORK):
        assert torch.get_num_threads() == 4
        raise ValueError("broken")
    assert torch.get_num_threads() == 4 and choice.threads == 1
    machine.passes(choice, TRIAL_PASSES)
    assert choice.threads == 4


def test_one_core_tries_nothing():
    torch.set_num_threads(1)
    machine, _choice = run(100, one=1.0, all=0.7)
    torch.set_num_threads(4)
    assert set(machine.used) == {1}
