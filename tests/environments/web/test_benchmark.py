"""The plan of the benchmark and that all sides do the same; nothing is timed."""

import sys
from contextlib import closing

import pytest

from agentgym.bench import BenchmarkOptions, Measurement, run_benchmark
from agentgym.environments.web import benchmark
from agentgym.environments.web.benchmark import Visitor, merged, page_seed, site, web


def test_what_is_not_there_is_left_out_and_said_so() -> None:
    plan = web(BenchmarkOptions(quick=True, farama=sys.executable))
    names = [case.name for case in plan.cases]
    assert "MiniWoB against Farama MiniWoB++" in names
    assert not any("BrowserGym" in name for name in names)
    assert plan.remarks == [
        "BrowserGym was left out: give its Python by --browsergym.",
        "BrowserGym, no sleeps was left out: give its Python by --browsergym.",
    ]
    full = web(BenchmarkOptions(browsergym="python", farama="python"))
    assert full.remarks == []
    assert len(full.cases) == 2 + 3 + 3 + 2


def test_measurements_become_one() -> None:
    parts = [
        Measurement(1.0, {"steps": 1}, {"step": [1.0]}, outcome="a"),
        Measurement(2.0, {"steps": 2}, {"step": [0.5, 1.5]}, outcome="b"),
    ]
    whole = merged(parts)
    assert (whole.seconds, whole.counts, whole.outcome) == (3.0, {"steps": 3}, ["a", "b"])
    assert whole.latencies == {"step": [1.0, 0.5, 1.5]}


@pytest.mark.browser
def test_all_sides_play_the_same_episodes() -> None:
    found = run_benchmark("web", BenchmarkOptions(quick=True, parts=("MiniWoB", "at once")))
    rows = {(row["case"], row["side"]): row for row in found.rows}
    assert all(row["same_work"] for row in found.rows)
    assert rows["MiniWoB", "agentgym"]["steps"] == rows["MiniWoB", "raw CDP"]["steps"] == 1
    assert rows["login-user, at once", "4 envs"]["resets"] == 8
    assert "MB for each" in found.note
    assert found.to_json()["settings"]["browser_pss_mb"]["login-user, at once"]["1"] > 0
    (sample,) = [m for case, side, m in found.samples if (case, side) == ("MiniWoB", "agentgym")]
    ((episode,),) = sample[0].outcome
    assert episode[2:] == [1, 1.0]


@pytest.mark.browser
@pytest.mark.parametrize(("path", "role"), benchmark._PAGES.values())
def test_a_visitor_clicks_through_a_page(path: str, role: str) -> None:
    with site() as address, closing(Visitor(address + path, role, 2)) as visitor:
        visitor.reset(1)
        count = len(visitor.env.get_wrapper_attr("view").elements)
        assert count == 3 * benchmark._ROWS[path]
        assert [visitor.step(visitor.choose())[1] for _ in range(2)] == [False, True]
        url = visitor.env.get_wrapper_attr("view").url
        assert url.startswith(f"{address}/next?") == (role == "link")
    assert benchmark.browser_pss() > 1e7


def test_page_seeds_are_the_environments_own() -> None:
    assert (page_seed(0), page_seed(1)) == (985772, 128037)
