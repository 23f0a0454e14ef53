import dataclasses
import json
import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from report_fixture import make_report, make_run

from configs import UserError
from dreaming.audit_report import ChannelError, ErrorCurve, NotReplayed, ScenarioAudit
from dreaming.report import charts, page
from dreaming.report.accuracy import name_and_unit
from dreaming.report.data import Cell, Outcome, Refused, Report
from dreaming.report.page import write_report
from dreaming.report.style import CSS
from dreaming.report.summary import Share, difference_interval, headline, mostly_failing, percent, verdict
from dreaming.wandb_log import audit_table

VOID = {"meta", "br"}


class Reader(HTMLParser):
    """Checks that tags are balanced; keeps text, tags and attributes."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.words: list[str] = []
        self.seen: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.seen.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != "style":
            self.words.append(data)

    @property
    def text(self) -> str:
        return " ".join(" ".join(self.words).split())


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return make_run(tmp_path_factory.mktemp("night") / "push-box-1")


@pytest.fixture(scope="module")
def written(run):
    path = write_report(run)
    assert path == run / "report" / "index.html"
    return path.read_text(encoding="utf-8")


def cell(before: int, after: int, n: int = 100, in_logs: bool = False) -> Cell:
    return Cell("slippery", "x", in_logs, Outcome(n, before, 0, 1.0, 1.0), Outcome(n, after, 0, 1.0, 1.0))


# -- the page ---------------------------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_needs_no_network(written):
    reader = Reader(written)
    assert "http:" not in written and "https:" not in written and "@import" not in written and "url(" not in written
    tags = {tag for tag, _ in reader.seen}
    assert not tags & {"script", "link", "iframe", "object", "img"}
    for _, attributes in reader.seen:
        assert (attributes.get("src") or "data:").startswith("data:")
        assert (attributes.get("href") or "#").startswith("#")
    assert len(written.encode()) < 8_000_000


def test_it_opens_with_the_result_and_holds_every_number(run, written):
    report = Report.load(run)
    reader = Reader(written)
    assert headline(report) in reader.text
    assert reader.text.index(headline(report)) < reader.text.index("Survival, before and after")
    for c in report.survival:
        assert f"{c.after.failures} of {c.after.n} fail" in written
        assert c.label in reader.text
    for heading in (
        "What the robot still cannot do",
        "Dream and truth",
        "held-out logs",
        "Training",
        "What was spent",
        "What these logs cannot teach",
    ):
        assert heading in reader.text
    for steps in report.spent.simulator_steps.values():
        assert f"{steps:,}" in reader.text
    assert report.warnings[0] in reader.text
    assert f"dream --run {run}" in reader.text


def test_the_audit_is_shown_scenario_by_scenario(run, written):
    audit = Report.load(run).audit
    assert audit is not None
    text = Reader(written).text
    assert "The audit: dreams against PyBullet" in text and "144 dreams were repeated" in text
    for one in audit.scenarios:
        assert one.reason in text
    assert text.count("not trusted") == 1 and "Dreams to be trusted 5 of 6 scenarios" in text
    assert "boxes lost foreseen" in text and "24 of 36" in text  # overall: 24 hits, 12 missed
    assert "weak-motors: the logs never vary motor_strength" in text


def test_falls_are_shown_by_scenario_and_horizon(written):
    text = Reader(written).text
    assert "Boxes lost foreseen, by horizon" in text
    assert "within 50 steps within the trust horizon" in text
    assert "0.700 24, 6, 12" in text and "0.800 24, 0, 12 median 31 steps" in text  # overall


def test_dreams_that_could_not_be_repeated_are_shown_with_their_reasons(tmp_path):
    report = make_report()
    assert report.audit is not None
    lost = [NotReplayed("slope", 7, 12, "the simulator failed", "pybullet.error: <no> body")] * 3
    report.audit.not_replayed = [NotReplayed("push", 3, 0, "its commands are not finite", ""), *lost]
    report.audit.scenarios[1].not_replayed = 3
    report.save(tmp_path)
    text = Reader(write_report(tmp_path).read_text()).text
    assert "4 more dreams could not be repeated" in text and "3 not repeated" in text
    slope = text.index("3 of slope: the simulator failed (pybullet.error: <no> body)")
    assert slope < text.index("1 of push: its commands are not finite")


def test_an_audit_that_could_repeat_nothing_is_shown_too(tmp_path):
    report = make_report()
    assert report.audit is not None
    report.audit.overall = ScenarioAudit.of_nothing("overall")
    report.audit.scenarios[0] = ScenarioAudit.of_nothing("ice")
    report.save(tmp_path)
    assert "0 dreams were repeated in PyBullet" in Reader(write_report(tmp_path).read_text()).text
    report.audit.overall = report.audit.scenarios[1]
    report.save(tmp_path)
    assert "nothing was repeated" in Reader(write_report(tmp_path).read_text()).text
    columns, rows = audit_table(report.audit)
    assert dict(zip(columns, rows[0], strict=True))["steps_ahead"] is None


def test_an_audit_with_next_to_nothing_in_it_is_shown_too(tmp_path):
    report = make_report()
    assert report.audit is not None
    empty: list[float | None] = [None]
    one = dataclasses.replace(
        report.audit.overall,
        horizon=[1],
        compared=[0],
        error=ErrorCurve(empty, empty),
        persistence=ErrorCurve(empty, empty),
    )
    channels = [ChannelError(channel.name, empty, empty) for channel in one.channels]
    one = dataclasses.replace(one, sensitivity=None, channels=channels, falls=[], reward_bias_per_step=None)
    dataclasses.replace(report, audit=dataclasses.replace(report.audit, overall=one, scenarios=[one])).save(tmp_path)
    assert "No finite values to draw" in Reader(write_report(tmp_path).read_text(encoding="utf-8")).text


def test_every_section_can_be_reached_and_every_colour_exists(written):
    reader = Reader(written)
    anchors = {attributes.get("id") for tag, attributes in reader.seen if tag == "section"}
    linked = {str(attributes["href"])[1:] for tag, attributes in reader.seen if tag == "a"}
    assert linked == anchors
    inside_charts = {"path", "circle", "rect", "line", "g", "text"}
    for tag, attributes in reader.seen:
        for name in (attributes.get("class") or "").split() if tag in inside_charts else []:
            assert f".{name}" in CSS, f"<{tag} class={name}> has no style"
    variables = set(re.findall(r"var\((--[\w]+)\)", CSS)) - {"--k"}
    light, dark = CSS.split("@media (prefers-color-scheme: dark)")[:2]
    assert all(f"{name}:" in light and f"{name}:" in dark for name in variables - {"--code"})


def test_without_a_simulator_it_says_so_and_claims_no_survival(tmp_path):
    text = Reader(write_report(make_run(tmp_path, audited=False)).read_text(encoding="utf-8")).text
    assert text.count("Not audited in a simulator") >= 2  # the banner and the headline
    assert "Survival, before and after" not in text and "still cannot" not in text
    assert "evaluate-policy" not in text and "PyBullet" not in text
    assert "dreams against held-out logs" in text


def test_a_night_that_ended_at_once_still_makes_a_page(tmp_path):
    Report("hopper", "2026-11-21T22:00:00", "2026-11-21T22:00:30", 0.1, "m", "0", "dream", True, "Ctrl-C").save(
        tmp_path
    )
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "ended before survival was measured" in text and "Ctrl-C" in text


def test_words_from_data_cannot_break_the_page(tmp_path):
    report = dataclasses.replace(
        make_report(), warnings=["<script>alert(1)</script>"], videos=[], refused=[Refused("a<b", "x & y")]
    )
    report.survival[0].label = '"><svg onload=x>'
    report.save(tmp_path)
    reader = Reader(write_report(tmp_path).read_text(encoding="utf-8"))
    assert "script" not in {tag for tag, _ in reader.seen}
    assert not any("onload" in attributes for _, attributes in reader.seen)
    assert "<script>alert(1)</script>" in reader.text


def test_videos_that_do_not_fit_are_linked_and_missing_ones_named(run, written, monkeypatch, tmp_path):
    assert written.count("data:video/mp4;base64,") == 2
    first = (run / "report/dream_slippery.mp4").stat().st_size
    monkeypatch.setattr(page, "MOST_BYTES", len(written) - int(1.2 * first))
    smaller = page.page(Report.load(run), run)
    assert smaller.count("data:video/mp4;base64,") == 1 and 'href="dream_payload.mp4"' in smaller
    make_report().save(tmp_path)
    assert "report/dream_payload.mp4 is missing" in write_report(tmp_path).read_text(encoding="utf-8")


def test_a_failed_write_leaves_the_old_page(tmp_path, monkeypatch):
    make_report().save(tmp_path)
    path = write_report(tmp_path)
    old = path.read_text(encoding="utf-8")

    def full(_descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_report(tmp_path)
    assert path.read_text(encoding="utf-8") == old
    assert sorted(p.name for p in path.parent.iterdir()) == ["data.json", "index.html"]


# -- the data ---------------------------------------------------------------------------------------------------------


def test_data_comes_back_as_it_was_saved(tmp_path):
    report = make_report()
    report.save(tmp_path)
    loaded = Report.load(tmp_path)
    assert loaded.survival == report.survival and loaded.spent == report.spent and loaded.training == report.training
    assert loaded.open_loop is not None and report.open_loop is not None
    assert loaded.open_loop.model == pytest.approx(report.open_loop.model)


def test_what_is_not_finite_is_saved_as_null_and_drawn_as_a_gap(tmp_path):
    report = make_report()
    assert report.open_loop is not None
    report.open_loop.model[3] = float("nan")
    report.training.dream[4]["critic_loss"] = float("inf")
    report.save(tmp_path)
    assert "NaN" not in (tmp_path / "report/data.json").read_text()
    text = write_report(tmp_path).read_text(encoding="utf-8")
    assert "nan" not in re.sub(r"base64,[^\"]*", "", text)


def test_missing_or_broken_data_is_one_clear_line(tmp_path):
    with pytest.raises(UserError, match="no night has ended"):
        write_report(tmp_path)
    path = make_report().save(tmp_path)
    path.write_text(path.read_text()[:-20])
    with pytest.raises(UserError, match="not valid JSON"):
        write_report(tmp_path)
    path.write_text(json.dumps({"tusk": "hopper"}))
    with pytest.raises(UserError, match="tusk"):
        write_report(tmp_path)


# -- what may be claimed ----------------------------------------------------------------------------------------------


def test_wilson_and_newcombe_give_the_published_numbers():
    assert Share(0, 10).interval == pytest.approx((0.0, 0.2775), abs=1e-4)
    assert Share(5, 10).interval == pytest.approx((0.2366, 0.7634), abs=1e-4)
    assert Share(81, 263).interval == pytest.approx((0.2553, 0.3662), abs=1e-4)  # Newcombe 1998a, table I
    # Newcombe 1998b, table II, method 10: 56/70 - 48/80 and 9/10 - 3/10
    assert difference_interval(Share(56, 70), Share(48, 80)) == pytest.approx((0.0524, 0.3339), abs=1e-4)
    assert difference_interval(Share(9, 10), Share(3, 10)) == pytest.approx((0.1705, 0.8090), abs=1e-4)


@given(st.integers(1, 400).flatmap(lambda n: st.tuples(st.integers(0, n), st.just(n))))
def test_an_interval_holds_its_share_and_mirrors(kn):
    k, n = kn
    low, high = Share(k, n).interval
    assert 0 <= low <= k / n <= high <= 1
    other_low, other_high = Share(n - k, n).interval
    assert (low, high) == pytest.approx((1 - other_high, 1 - other_low), abs=1e-9)


def test_nothing_rounds_to_all_or_nothing():
    assert [percent(s) for s in (0.0, 0.001, 0.5, 0.999, 1.0)] == ["0%", "under 1%", "50%", "over 99%", "100%"]


@pytest.mark.parametrize(
    ("cells", "opening"),
    [
        ([cell(80, 20)], "Dreaming helped: in worlds that no log holds the policy fails in 20% of 100 episodes"),
        ([cell(50, 49)], "No clear change"),
        ([cell(20, 80)], "Dreaming did harm"),
        ([cell(80, 20, in_logs=True)], "Dreaming helped: within the logs' range"),
        ([cell(80, 20), cell(0, 90, in_logs=True)], "Dreaming helped"),
    ],
)
def test_the_headline_claims_what_the_counts_allow(cells, opening):
    report = dataclasses.replace(make_report(), survival=cells)
    assert headline(report).startswith(opening)


def test_a_wake_is_told_apart_from_what_no_simulator_step_taught(tmp_path):
    woken = dataclasses.replace(cell(80, 20), zero_step=cell(80, 60).after)
    report = dataclasses.replace(make_report(), survival=[woken], videos=[])
    report.spent.simulator_steps["learning"] = 5040
    report.save(tmp_path)
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text
    said = "It learnt from 5,040 simulator steps of a wake; the policy that learnt from none fails in 60% (50–69%)."
    assert said in headline(report) and said in text
    assert text.count("before the wake") >= 3  # the legend, and both tables
    assert "wake" not in headline(dataclasses.replace(make_report(), survival=[cell(80, 20)]))


def test_a_gain_outside_does_not_hide_a_loss_inside(tmp_path):
    report = dataclasses.replace(make_report(), survival=[cell(80, 20), cell(5, 60, in_logs=True)], videos=[])
    report.save(tmp_path)
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "Within the logs' range it fails in 60% of 100 (50–69%), which is worse than before: 5%" in text


def test_a_night_that_kept_the_policy_it_began_with_says_so(tmp_path):
    report, sentence = make_report(), "None of 3 trials of the dreaming policy went better"
    kept = [{"night": 1, "seconds": 60.0 * i, "scores": {"logged": 0.9}, "kept": i == 0} for i in range(4)]
    older, worse = [{**row, "night": 0} for row in kept], [{**kept[0], "kept": False}, *kept[1:]]
    cases = [(kept, True), ([*kept, kept[0]], False), (kept[:1], False), (older + kept, True)]
    cases += [(older, False), (kept[:1] + older, False), (older + worse, False)]  # kept is what an older night made
    for trials, told in cases:
        training = dataclasses.replace(report.training, selection=trials, night=1)
        dataclasses.replace(report, training=training, videos=[]).save(tmp_path)
        text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text
        assert (sentence in text) is told


def test_progress_is_shown_where_it_is_measured(tmp_path):
    worlds = [cell(10, 10), cell(10, 10, n=300)]
    for world, before, after in zip(worlds, (4.0, 8.0), (12.0, 16.0), strict=True):
        world.before.progress_mean, world.after.progress_mean = before, after
    dataclasses.replace(make_report(), task="hopper", survival=worlds, videos=[]).save(tmp_path)
    text = Reader(write_report(tmp_path).read_text(encoding="utf-8")).text
    assert "(metres travelled): 15.0 on average over all worlds after the night, 7.00 before" in text
    assert "4.00 → 12.0" in text and "8.00 → 16.0" in text


def test_few_episodes_allow_no_verdict():
    assert verdict(Share(1, 3), Share(3, 3)) == "unclear"
    assert verdict(Share(0, 0), Share(3, 3)) == "unclear"


def test_mostly_failing_is_more_than_half_worst_first():
    cells = [cell(0, 50), cell(0, 51), cell(0, 99)]
    assert mostly_failing(cells) == [cells[2], cells[1]]


@pytest.mark.parametrize(
    ("channel", "parts"),
    [
        ("box_yaw_rate_rad_s", ("box yaw rate", "rad/s")),
        ("torso_vx_3.33m_s", ("torso vx", "3.33 m/s")),
        ("finger_to_box_x_m", ("finger to box x", "m")),
        ("box_cos_yaw", ("box cos yaw", "no unit")),
        ("contact", ("contact", "no unit")),
    ],
)
def test_a_channels_name_gives_its_unit(channel, parts):
    assert name_and_unit(channel) == parts


# -- the charts -------------------------------------------------------------------------------------------------------


def test_a_line_lies_where_its_numbers_say():
    line = charts.Line("a", [0, 1, 2], [0.0, 5.0, 10.0], "dream")
    svg = charts.line_chart([line], 600, title="t", x_label="x", y_label="y")
    points = [(float(x), float(y)) for x, y in re.findall(r'<circle[^>]* cx="([\d.]+)" cy="([\d.]+)"', svg)]
    assert len(points) == 3
    (x0, y0), (x1, y1), (x2, y2) = points
    assert x1 == pytest.approx((x0 + x2) / 2, abs=0.11) and y1 == pytest.approx((y0 + y2) / 2, abs=0.11)
    tick = {label: float(y) for y, label in re.findall(r'<text class="tick" x="44" y="([\d.]+)"[^>]*>(\d+)<', svg)}
    assert tick["10"] - 4 == pytest.approx(y2, abs=0.11) and tick["0"] - 4 == pytest.approx(y0, abs=0.11)


def test_gaps_are_not_bridged():
    line = charts.Line("a", [0, 1, 2, 3], [1.0, None, float("nan"), 2.0], "dream")
    svg = charts.line_chart([line], 600, title="t", x_label="x", y_label="y")
    (path,) = re.findall(r'<path class="line dream" d="([^"]+)"', svg)
    assert path.count("M") == 2 and "L" not in path
    assert "No finite values" in charts.line_chart(
        [charts.Line("a", [0], [None], "c0")], 600, title="", x_label="", y_label=""
    )


def test_a_dot_and_its_interval_lie_where_their_shares_say():
    row = charts.Row("r", [charts.Dot("after", 0.5, 0.25, 1.0, "tip")], outside=True)
    svg = charts.dot_plot([("g", [row])], 700, title="t", x_label="x")
    grid = [float(x) for x in re.findall(r'<line class="grid" x1="([\d.]+)"', svg)]
    low, high = re.findall(r'<g class="dot after">.*?<line x1="([\d.]+)" x2="([\d.]+)"', svg)[0]
    (centre,) = re.findall(r'<circle cx="([\d.]+)"', svg)
    assert [float(low), float(centre), float(high)] == pytest.approx([grid[1], grid[2], grid[4]])
    assert 'class="outside"' in svg


@given(st.floats(-1e3, 1e3), st.floats(1e-3, 1e6))
def test_ticks_are_round_evenly_spaced_and_inside(low, size):
    marks = charts.ticks(low, low + size)
    assert all(low - 1e-6 * size <= mark <= low + size * (1 + 1e-6) for mark in marks)
    assert len(marks) <= 7


@given(st.lists(st.floats(0, 300), min_size=1, max_size=8))
def test_labels_are_moved_apart_in_order_and_stay_inside(wanted):
    placed = charts.spread(wanted, 16, 0, 300)
    assert all(-1e-9 <= y <= 300 + 1e-9 for y in placed)
    order = sorted(range(len(wanted)), key=lambda i: wanted[i])
    gaps = [placed[b] - placed[a] for a, b in zip(order, order[1:], strict=False)]
    assert all(gap >= 16 - 1e-9 for gap in gaps)


@pytest.mark.parametrize(
    ("value", "text"),
    [(0.0, "0"), (0.034567, "0.0346"), (1234.5, "1,230"), (-2.5, "−2.50"), (3.2e-7, "3.20e-7"), (None, "–")],
)
def test_numbers_read_like_numbers(value, text):
    assert charts.number(value) == text


@pytest.mark.parametrize("width", [360, 820])
def test_no_label_of_a_dot_plot_crosses_its_dots_or_leaves_the_picture(width):
    long = "floor_friction 0.253, payload_kg 0.575, push_m_s -0.6, slope_deg -3, motor_strength 0.9, sensor_noise 0.01"
    dots = [charts.Dot("after", 0.5, 0.0, 1.0, "tip")]
    rows = [charts.Row(label, dots) for label in ("friction 0.3", long, 2 * long)]
    svg = charts.dot_plot([("reach", rows)], width, title="t", x_label="x")
    drawn = list(ElementTree.fromstring(svg).iter())
    labels = [one for one in drawn if one.get("class") == "label"]
    lines = [one for one in drawn if one.tag.endswith("line") and one.get("class") is None]
    for row, label, line in zip(rows, labels, lines, strict=True):
        shown = label.text or ""
        assert row.label.startswith(shown.removesuffix("…")) and len(shown) >= min(len(row.label), 40)
        end = float(label.get("x", 0)) + 6.9 * len(shown)  # DejaVu Sans, a wide one, at 13 pixels: 6.2 to 6.9
        assert shown == row.label or [one.text for one in label] == [row.label]
        beside, above = end < float(line.get("x1", 0)), float(label.get("y", 0)) < float(line.get("y1", 0)) - 8
        assert end <= width and (beside or above)
