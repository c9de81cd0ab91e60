"""The simulated scaling policy: nothing is lost in it, it ends at zero, and its numbers are those of the playbooks."""

import re
from dataclasses import replace

import pytest

from benchmarks.scaling import loads, results
from benchmarks.scaling_alarms import Policy, role_numbers
from benchmarks.scaling_world import CHUNK, Load, Outcome, World
from tests.test_compose import ROOT

POLICY = Policy.of_role()
BURSTS = Load("bursts", ((30.0, 90_000), (1_900.0, 90_001), (20_000.0, 300)), 20, 40.0)
SLOW = Load("slow chunks, bad spot market", ((30.0, 30_000),), 50, 1.5, spot_losses_per_h=3.0)


def checked(load: Load, policy: Policy, seed: int, counts_warming: bool = False) -> Outcome:
    """The outcome, after every chunk was done exactly once and the group came back to zero."""
    world = World(load, policy, seed, counts_warming)
    outcome = world.run()
    chunks = sum(-(-images // CHUNK) for _, images in load.arrivals)
    assert outcome.images_done == load.images
    assert sorted(outcome.done) == list(range(chunks))
    assert set(outcome.done.values()) == {1}
    assert world._machines == []
    assert outcome.peak <= load.largest + outcome.lost
    assert outcome.machine_s >= outcome.busy_s > 0
    return outcome


@pytest.mark.parametrize("counts_warming", [False, True])
@pytest.mark.parametrize("load", [BURSTS, SLOW], ids=lambda load: load.name)
def test_every_chunk_is_done_once_and_the_group_returns_to_zero(load: Load, counts_warming: bool) -> None:
    for seed in (1, 2):
        outcome = checked(load, POLICY, seed, counts_warming)
        assert outcome.sizes[0] == outcome.sizes[-1] == 0
        assert outcome.busy_s >= load.images / load.images_per_s / 1.3
        if load is SLOW:
            assert outcome.given_back > 0


def test_the_same_seed_is_the_same_day() -> None:
    assert World(BURSTS, POLICY, 7).run() == World(BURSTS, POLICY, 7).run()


def test_one_large_run_is_drained_about_as_fast_as_asked_without_a_change_of_mind() -> None:
    for counts_warming in (False, True):
        outcome = checked(Load("large", ((30.0, 1_000_000),), 500, 40.0), POLICY, 1, counts_warming)
        assert outcome.turns == 1, "up, and down to zero"
        start_s = 900.0  # metric, alarm, first machine, first chunk, three datapoints, the others
        assert outcome.drained_s < POLICY.drain_target_s + start_s
        assert outcome.peak >= 0.7 * 1_000_000 / 40 / POLICY.drain_target_s


def test_the_minimum_of_a_minute_makes_both_readings_of_aws_alike() -> None:
    bursts = loads()[2]
    mean = replace(POLICY, statistic="Average")
    chosen, means = (
        [next(iter(results([bursts], [policy], reading))).machine_h for reading in (False, True)]
        for policy in (POLICY, mean)
    )
    assert chosen[1] == pytest.approx(chosen[0], rel=0.03)
    assert means[1] > 1.2 * means[0]


def test_the_simulated_policy_is_the_playbooks() -> None:
    numbers, text = role_numbers(), (ROOT / "ansible/roles/worker_group/tasks/scaling.yml").read_text(encoding="utf-8")
    assert (POLICY.drain_target_s, POLICY.idle_minutes, POLICY.wake, POLICY.start_s) == tuple(
        numbers[f"worker_group_{name}"] for name in ("drain_target_s", "idle_minutes", "wake", "start_s")
    )
    # What the role does with its numbers, task by task, as the simulation has it.
    follow, wake, waken, sleep, slept = text.split("\n- name: ")[1:]
    assert set(settings_of(follow)) >= {
        ("target_value", '"{{ worker_group_drain_target_s }}"'),
        ("estimated_instance_warmup", '"{{ worker_group_start_s }}"'),
        ("metric_name", "BacklogSecondsPerWorker"),
        ("statistic", POLICY.statistic),
    }
    assert set(settings_of(wake)) >= {
        ("scaling_adjustment", '"{{ worker_group_wake }}"'),
        ("cooldown", '"{{ worker_group_start_s * 2 }}"'),
    }
    waits = {("metric_name", "ImagesWithoutWorker"), ("statistic", "Maximum"), ("evaluation_periods", "1")}
    assert set(settings_of(waken)) >= waits | {("period", "60"), ("threshold", "1")}
    assert set(settings_of(sleep)) >= {("scaling_adjustment", "-100"), ("cooldown", "60")}
    assert set(settings_of(slept)) >= {
        ("metric_name", "ImagesToDo"),
        ("statistic", "Maximum"),
        ("period", "60"),
        ("threshold", "1"),
        ("evaluation_periods", '"{{ worker_group_idle_minutes }}"'),
    }


def settings_of(task: str) -> list[tuple[str, str]]:
    """Every `name: value` of a task, however deep."""
    return re.findall(r"^ +(\w+): (.+?)(?: +#.*)?$", task, re.MULTILINE)
