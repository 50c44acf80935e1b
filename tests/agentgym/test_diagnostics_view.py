"""Which diagnostics a report shows, and its alarms in words."""

from typing import Any

from agentgym.diagnostics_view import alarm_notes, diagnostic_charts


def rows(iterations: int) -> list[dict[str, Any]]:
    made: list[dict[str, Any]] = []
    for i in range(1, iterations + 1):
        common = {"iteration": i, "seconds": 1.0}
        made += [
            {
                "phase": f"iteration-{i}",
                **common,
                "entropy": 1.0 / i**3,
                "turns": 12.0,
                "episodes": 4.0,
                "action_tokens": 36.0,
            },
            {"phase": f"update-{i}", "iteration": i, "loss": 0.5},
            {
                "phase": f"update-{i}",
                **common,
                "update_steps": 3.0,
                "update_clip_share": 0.1,
                "tables": {
                    "advantages": {"edges": [-1.0, 0.0, 1.0], "counts": [3.0, float(i)]},
                    "v_calibration": [[2.0, 0.1, 0.0], [2.0, 0.9, 1.0]],
                    "q_calibration": [[4.0, 0.5, 0.5]],
                },
            },
            {"phase": f"eval-{i}", **common, "entropy": 9.0},
        ]
    return made


def test_charts_over_iterations_and_of_the_last_update() -> None:
    charts = {chart.title: chart for chart in diagnostic_charts(rows(3))}
    assert list(charts) == [
        "Entropy of the sampled tokens",
        "Tokens whose ratio is clipped",
        "Turns of an episode",
        "Tokens of a turn",
        "Advantages of the last update",
        "V against returns, last update",
    ], "no chart of one point"
    said = [text for _, _, text in charts["Entropy of the sampled tokens"].points]
    assert said[0].endswith("1 at 1"), "evaluations are left out"
    assert len(said) == 3
    assert charts["Turns of an episode"].points[0][2].endswith("3 at 1")
    assert "3 at 1" in charts["Advantages of the last update"].points[-1][2]
    assert diagnostic_charts([]) == []


def test_alarms_in_words() -> None:
    (note,) = alarm_notes(rows(4), "")
    assert note.startswith("Alarm, entropy, 2 times, last in iteration-4: entropy fell to")
    assert note.endswith(".")
    assert alarm_notes(rows(4), "[alarms]\nentropy = 0.0") == []
    assert len(alarm_notes(rows(4), "[alarms\n")) == 1, "a damaged recipe leaves the defaults"
