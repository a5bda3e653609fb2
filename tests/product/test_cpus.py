"""Sessions use as many threads as affinity and the quotas of control groups allow."""

import os

import pytest

from sparsec.machine import cpus

AFFINITY = len(os.sched_getaffinity(0))


def files(root, contents):
    for name, text in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


@pytest.mark.parametrize(("contents", "expected"), [
    ({}, 8),
    ({"proc/self/cgroup": "0::/\n"}, 8),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "max 100000\n"}, 8),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "300000 100000\n"}, 3),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "250000 100000\n"}, 2),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "50000 100000\n"}, 1),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "1600000 100000\n"}, 8),
    ({"proc/self/cgroup": "0::/a/b\n", "sys/fs/cgroup/a/b/cpu.max": "max 100000\n",
      "sys/fs/cgroup/a/cpu.max": "400000 100000\n"}, 4),
    ({"proc/self/cgroup": "3:cpu,cpuacct:/docker/x\n1:name=systemd:/\n",
      "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "200000\n", "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 2),
    ({"proc/self/cgroup": "3:cpu:/\n", "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
      "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n"}, 8),
    ({"proc/self/cgroup": "0::/\n", "sys/fs/cgroup/cpu.max": "damaged"}, 8),
])
def test_quotas_limit_the_processors(contents, expected, tmp_path, monkeypatch):
    files(tmp_path, contents)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)))
    assert cpus.available(tmp_path) == expected


def test_affinity_limits_the_processors(monkeypatch):
    assert 1 <= cpus.available() <= AFFINITY
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {5})
    assert cpus.available() == 1


def test_a_session_takes_no_more_threads(monkeypatch):
    from sparsec.runtime.arguments import allowed_threads
    monkeypatch.setattr(cpus, "available", lambda: 3)
    assert [allowed_threads(None, compiled) for compiled in (2, 3, 16)] == [2, 3, 3]
    assert allowed_threads(16, 16) == 16


@pytest.mark.parametrize(("siblings", "expected"), [({}, 3), ({0: "0,4", 4: "0,4"}, 2), ({0: "0-1", 1: "0-1"}, 2)])
def test_threads_of_a_core_count_once(siblings, expected, tmp_path, monkeypatch):
    files(tmp_path, {f"sys/devices/system/cpu/cpu{each}/topology/thread_siblings_list": f"{line}\n"
                     for each, line in siblings.items()})
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {0, 1, 4})
    assert cpus.cores(tmp_path) == expected
