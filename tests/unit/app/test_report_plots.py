"""The plots of the report: coordinates against the obvious arithmetic."""

from itertools import pairwise
from math import log10

import pytest
from hypothesis import given
from hypothesis import strategies as st

from app.dashboard.plots import (
    BOTTOM,
    HEIGHT,
    LEFT,
    RIGHT,
    TOP,
    WIDTH,
    Chart,
    plot_roc,
    plot_scores,
)

ROC = {
    "false_alarms": [0.0, 0.001, 0.01, 0.1, 1.0],
    "hits_after": [0.0, 0.0, 0.25, 0.5, 1.0],
    "hits_before": [0.5, 0.5, 0.75, 1.0, 1.0],
}
SCORES = {
    "edges": [-2.0, -1.0, 0.0, 1.0, 2.0],
    "forget_shares": [0.0, 0.5, 0.5, 0.0],
    "holdout_shares": [0.25, 0.25, 0.25, 0.25],
}


def _drawn(chart: Chart | None) -> Chart:
    assert chart is not None
    return chart


def test_a_roc_is_drawn_on_a_logarithmic_rate() -> None:
    chart = _drawn(plot_roc(ROC))
    after, before, chance = chart.lines
    assert [line.kind for line in chart.lines] == ["after", "before", "chance"]
    # Three powers of ten share the 336 between 52 and 388; the rate 0 has no place.
    assert [x for x, _ in after.points] == [52.0, 164.0, 276.0, 388.0]
    # A share of 1 is 188 above the axis at 222.
    assert [y for _, y in after.points] == [222.0, 175.0, 128.0, 34.0]
    assert [y for _, y in before.points] == [128.0, 81.0, 34.0, 34.0]
    assert [y for _, y in chance.points] == [221.8, 220.1, 203.2, 34.0]
    assert "At a rate of 1 % it finds 25 %" in chart.description
    assert [tick.label for tick in chart.x_ticks] == ["0.001", "0.01", "0.1", "1"]
    assert [tick.label for tick in chart.y_ticks] == ["0", "0.25", "0.5", "0.75", "1"]


def test_without_the_model_before_there_is_one_line_less() -> None:
    chart = _drawn(plot_roc({name: row for name, row in ROC.items() if name != "hits_before"}))
    assert [line.kind for line in chart.lines] == ["after", "chance"]


@given(st.lists(st.floats(1e-3, 1.0), min_size=1, max_size=20))
def test_any_rate_is_drawn_where_its_logarithm_is(rates: list[float]) -> None:
    chart = _drawn(plot_roc({"false_alarms": rates, "hits_after": rates}))
    for rate, (x, y) in zip(rates, chart.lines[0].points, strict=True):
        assert x == pytest.approx(LEFT + (3 + log10(rate)) / 3 * (RIGHT - LEFT), abs=0.051)
        assert y == pytest.approx(BOTTOM - rate * (BOTTOM - TOP), abs=0.051)


def test_scores_are_steps_over_their_bins_from_the_axis_to_the_axis() -> None:
    chart = _drawn(plot_scores(SCORES))
    holdout, forget = chart.lines
    assert (holdout.kind, forget.kind) == ("holdout", "forget")
    # The highest share, 0.5, is rounded up to 0.6; bins are 84 wide.
    assert chart.y_ticks[-1].label == "0.6"
    assert forget.points == (
        (52.0, 222.0),
        (52.0, 222.0),
        (136.0, 222.0),
        (136.0, 65.3),
        (220.0, 65.3),
        (220.0, 65.3),
        (304.0, 65.3),
        (304.0, 222.0),
        (388.0, 222.0),
        (388.0, 222.0),
    )
    assert {y for _, y in holdout.points[1:-1]} == {143.7}
    assert [tick.label for tick in chart.x_ticks] == ["-2", "-1", "0", "1", "2"]


@given(
    st.floats(-1e3, 1e3),
    st.floats(1e-3, 1e3),
    st.lists(st.floats(0, 1), min_size=1, max_size=24),
)
def test_any_scores_stay_in_the_frame_with_round_ticks_in_order(
    first: float, width: float, shares: list[float]
) -> None:
    edges = [first + width * at / len(shares) for at in range(len(shares) + 1)]
    curves = {"edges": edges, "forget_shares": shares, "holdout_shares": shares[::-1]}
    chart = _drawn(plot_scores(curves))
    for line in chart.lines:
        assert all(LEFT <= x <= RIGHT and TOP <= y <= BOTTOM for x, y in line.points)
        assert all(x <= after for (x, _), (after, _) in pairwise(line.points))
    ticks = [tick.x for tick in chart.x_ticks]
    assert 2 <= len(ticks) <= 6
    assert ticks == sorted(ticks)
    assert ticks[0] >= LEFT
    assert ticks[-1] <= RIGHT


def test_the_frame_and_the_key_lie_in_the_drawing() -> None:
    assert 0 < LEFT < RIGHT < WIDTH
    assert 0 < TOP < BOTTOM < HEIGHT
    for chart in (_drawn(plot_roc(ROC)), _drawn(plot_scores(SCORES))):
        places = [line.key_x for line in chart.lines]
        names = [line.name for line in chart.lines]
        ends = [x + 23 + 5 * len(name) for x, name in zip(places, names, strict=True)]
        assert all(end < after for end, after in zip(ends, places[1:], strict=False))
        assert ends[-1] < WIDTH


@pytest.mark.parametrize(
    "curves",
    [
        {},
        {"false_alarms": [], "hits_after": []},
        {"false_alarms": [0.0], "hits_after": [0.0]},
        {"false_alarms": [0.1, 1.0], "hits_after": [0.5]},
    ],
)
def test_without_a_curve_there_is_no_roc(curves: dict[str, list[float]]) -> None:
    assert plot_roc(curves) is None


@pytest.mark.parametrize(
    "changed",
    [{"edges": []}, {"edges": [1.0] * 5}, {"forget_shares": [1.0]}, {"holdout_shares": []}],
)
def test_without_both_groups_there_are_no_scores(changed: dict[str, list[float]]) -> None:
    assert plot_scores(SCORES | changed) is None


def test_all_shares_of_zero_are_drawn_on_the_axis() -> None:
    nothing = SCORES | {"forget_shares": [0.0] * 4, "holdout_shares": [0.0] * 4}
    assert {y for line in _drawn(plot_scores(nothing)).lines for _, y in line.points} == {BOTTOM}
