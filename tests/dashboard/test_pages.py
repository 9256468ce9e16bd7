"""The logic of the pages, without a browser."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import streamlit as st
from streamlit.testing.v1 import AppTest

from dashboard import connection
from dashboard.views import live
from recsys.api.router_schemas import PolicyReturned


def _live() -> None:
    from dashboard.views import live

    live.page()


def _recommend() -> None:
    from dashboard.views import recommend

    recommend.page()


def _compare() -> None:
    from dashboard.views import compare

    compare.page()


def _burst() -> None:
    from dashboard.views import burst_lab

    burst_lab.page()


def _experts() -> None:
    from dashboard.views import experts

    experts.page()


def _system() -> None:
    from dashboard.views import system

    system.page()


@pytest.fixture(autouse=True)
def _fresh_caches() -> Iterator[None]:
    yield
    st.cache_data.clear()
    st.cache_resource.clear()


@pytest.fixture(autouse=True)
def main_module(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page replaces `__main__`, and processes that later tests spawn would run that page."""
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])


def shown(page: AppTest) -> str:
    """All text of a page."""
    assert not page.exception, page.exception
    blocks = [*page.markdown, *page.caption, *page.error, *page.warning, *page.info, *page.success]
    html = [block.proto.body for block in page.get("html")]
    return "\n".join([*(str(block.value) for block in blocks), *html])


def run(script: Callable[[], None]) -> AppTest:
    return AppTest.from_function(script, default_timeout=30).run()


def run_until(script: Callable[[], None], text: str) -> AppTest:
    """Draw the page again, as its timer does, until it says something."""
    page, deadline = run(script), time.monotonic() + 10
    while text not in shown(page):
        assert time.monotonic() < deadline, f"{text!r} not in {shown(page)!r}"
        time.sleep(0.05)
        page.run()
    return page


def test_every_page_of_the_app_runs(served: Any) -> None:
    app = Path(connection.__file__).parent / "app.py"
    page = AppTest.from_file(str(app), default_timeout=30).run()
    assert not page.exception


def test_flash_crowd(served: Any) -> None:
    served.fake.flash_crowd(5, 11, ago_s=60)
    page = run_until(_live, "Crowd on experts 5 and 11, work stays even")
    values = {metric.label: metric.value for metric in page.metric}
    assert len(values) == 8
    wanted, worked = values["Busiest ÷ mean, ×"].split(" → ")
    assert float(wanted) > 3
    assert float(worked) <= 1.26
    assert len(page.get("vega_lite_chart")) == 11


def test_plain_top_k_lets_work_pile_up(served: Any) -> None:
    served.fake.policy = "topk"
    served.fake.flash_crowd(5, ago_s=60)
    run_until(_live, "work piles up")


def test_calm_and_another_layer(served: Any) -> None:
    page = run_until(_live, "Wishes are spread well")
    page.segmented_control(key="live_layer").set_value("Layer 2").run()
    assert "Wishes are spread well" in shown(page)


def test_engines_can_be_chosen(served: Any) -> None:
    served.fake.engines = ("engine-0", "engine-1")
    page = run_until(_live, "Wishes are spread well")
    both = next(m.value for m in page.metric if m.label.startswith("Answered"))
    page.selectbox(key="live_engine").set_value("engine-1").run()
    one = next(m.value for m in page.metric if m.label.startswith("Answered"))
    assert int(one.replace(",", "")) < 0.8 * int(both.replace(",", ""))


def test_states_without_data(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "STALE_AFTER_S", 1.2)
    served.fake.traffic = False
    page = run_until(_live, "No traffic yet")
    assert "curl" in page.code[0].value
    served.fake.frozen = True
    run_until(_live, "Stale")
    served.stop()
    page = run_until(_live, "Disconnected")
    assert "No answer from" in shown(page)
    served.fake.frozen, served.fake.traffic = False, True
    served.fake.flash_crowd()
    served.start()
    run_until(_live, "Calm")


def test_no_engine(served: Any) -> None:
    served.fake.frozen = True
    run_until(_live, "No engine reports")


def test_switching_explains_a_wrong_key(served: Any) -> None:
    page = run_until(_live, "Calm")
    switch = next(button for button in page.button if button.label == "Switch")
    switch.click().run()
    assert "needs the admin key" in shown(page)
    page.text_input(key="steer_key").set_value("guess")
    next(button for button in page.button if button.label == "Switch").click().run()
    assert "RECSYS_API__ADMIN_KEY" in shown(page)
    assert served.fake.policy == "price"


def test_switching_with_the_configured_key(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_KEY", "a-key-for-tests")
    page = run_until(_live, "Calm")
    assert not page.text_input
    next(box for box in page.selectbox if box.label == "Routing policy").set_value("topk")
    next(button for button in page.button if button.label == "Switch").click().run()
    assert "Switched to topk" in shown(page)
    assert served.fake.policy == "topk"


def test_a_switch_that_goes_back_by_itself(served: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_KEY", "a-key-for-tests")
    page = run_until(_live, "Calm")
    page.selectbox(key="steer_budget").set_value(0.97)
    next(box for box in page.selectbox if box.label == "Routing policy").set_value("hash")
    next(button for button in page.button if button.label == "Switch").click().run()
    assert served.fake.budget.score_kept_min == 0.97
    page = run_until(_live, "Goes back to **price** at 1.25× if less than 97% of the gate score is kept over 5 s")
    served.fake.policy, served.fake.budget = "price", None
    served.fake.returned = PolicyReturned(why="kept 0.61 of the gate score, not 0.97", ts=int(time.time() * 1e3))
    run_until(_live, "The policy went back by itself")


def ids_of(page: AppTest) -> list[str]:
    return [button.key.removeprefix("like_") for button in page.button if str(button.key).startswith("like_")]


def test_a_like_changes_the_list(served: Any) -> None:
    page = run(_recommend)
    before = ids_of(page)
    assert len(before) == 10
    page.button(key=f"like_{before[0]}").click().run()
    after = ids_of(page)
    assert before[0] not in after
    text = shown(page)
    assert "The list below knows it" in text
    assert 'class="move new"' in text
    assert "Left the list" in text
    event = served.fake.events[0]
    assert (event["user_id"], event["item_id"], event["kind"]) == ("u1", before[0], "like")
    assert event["request_id"].startswith("r")


def test_a_hidden_item_stays_away(served: Any) -> None:
    page = run(_recommend)
    victim = ids_of(page)[2]
    page.button(key=f"hide_{victim}").click().run()
    assert victim not in ids_of(page)
    assert "1 hidden" in shown(page)


def test_wishes_reach_the_service(served: Any) -> None:
    page = run(_recommend)
    page.slider(key="goal_like").set_value(2.0)
    page.slider(key="diversity").set_value(0.5)
    page.slider(key="k").set_value(5)
    page.multiselect(key="any_of").set_value(["drama"])
    page.toggle(key="exclude_seen").set_value(False)
    page.toggle(key="explain").set_value(True).run()
    asked = served.fake.requests[-1]
    assert asked["goals"] == {"click": 1.0, "like": 2.0}
    assert (asked["k"], asked["diversity"], asked["exclude_seen"], asked["explain"]) == (5, 0.5, False, True)
    assert asked["filters"]["categories_any"] == ["drama"]
    text = shown(page)
    assert "layer 1: E0 70%, E1 30%" in text
    assert "redirected E5→E0" in text


def test_an_invented_user_is_sent_as_history(served: Any) -> None:
    page = run(_recommend)
    page.segmented_control(key="who").set_value("Invent one").run()
    page.multiselect(key="invented").set_value(["i3", "i8"]).run()
    assert served.fake.requests[-1]["history"] == ["i3", "i8"]
    first = ids_of(page)[0]
    page.button(key=f"like_{first}").click().run()
    assert served.fake.requests[-1]["history"] == ["i3", "i8", first]
    assert not served.fake.events


def test_unknown_users_and_fallback_are_marked(served: Any) -> None:
    page = run(_recommend)
    page.text_input(key="user_id").set_value("stranger").run()
    assert "Cold start" in shown(page)
    served.fake.fallback = True
    page.run()
    assert "Fallback answer" in shown(page)


def test_recommend_without_the_service(served: Any) -> None:
    served.stop()
    page = run(_recommend)
    assert "Disconnected" in shown(page)
    served.start()
    page.run()
    assert len(ids_of(page)) == 10


def test_two_policies_side_by_side(served: Any) -> None:
    page = run(_compare)
    asked = served.fake.requests[-1]
    assert (asked["policies"], asked["query"]["user_id"]) == (("topk", "price"), "u1")
    assert "The same items in the same order" in shown(page)
    assert "policies that only act on overload give the same answer" in shown(page)
    page.selectbox(key="compare_second").set_value("hash").run()
    text = shown(page)
    assert "1 of 10 items differ, 9 moved" in text
    assert "only here" in text
    assert "hash 61.0%" in text
    assert 'class="move up"' in text
    page.selectbox(key="compare_first").set_value("hash").run()
    assert "The same policy twice: the same list" in shown(page)


def test_the_last_minute_of_traffic_under_two_policies(served: Any) -> None:
    page = run(_compare)
    page.segmented_control(key="compare_what").set_value("The last minute of traffic").run()
    assert "64 queries of the last 60 s are asked again" in shown(page)
    page.button(key="compare_now").click().run()
    assert "needs the admin key" in shown(page)
    page.text_input(key="compare_key").set_value("guess")
    page.button(key="compare_now").click().run()
    assert "does not accept this key" in shown(page)
    page.text_input(key="compare_key").set_value("a-key-for-tests")
    page.selectbox(key="compare_second").set_value("hash")
    page.button(key="compare_now").click().run()
    assert "25% of the lists are the same" in shown(page)
    table = page.dataframe[0].value
    assert list(table.columns) == ["", "topk", "hash"]
    assert dict(zip(table[""], table["hash"], strict=True))["gate score kept, %"] == "61.00"
    served.fake.traffic = False
    page.button(key="compare_now").click().run()
    assert "No traffic in the last minute" in shown(page)


def test_compare_without_the_service(served: Any) -> None:
    served.stop()
    assert "Disconnected" in shown(run(_compare))


def test_experts_by_category(served: Any) -> None:
    page = run(_experts)
    assert len(page.get("vega_lite_chart")) == 2 * served.fake.layers
    assert [table.value.shape for table in page.dataframe] == [(16, 4), (16, 4), (16, 6)] * served.fake.layers
    assert {r["priority"] for r in served.fake.requests} == {"batch"}
    asked = len(served.fake.requests)
    page.run()
    assert len(served.fake.requests) == asked, "a sample serves every viewer for a while"
    page.button(key="experts_again").click().run()
    assert len(served.fake.requests) == 2 * asked


def test_experts_without_explanations(served: Any) -> None:
    served.fake.fallback = True
    page = run(_experts)
    assert "No expert spoke: no engine answered in time. Trying again" in shown(page)
    assert len(served.fake.requests) == 1, "asked in vain once a turn, not 24 times"
    served.fake.fallback = False
    assert "In words" in shown(page.run()), "nothing of the outage is kept"
    served.stop()
    st.cache_data.clear()
    assert "Disconnected" in shown(run(_experts))


def test_old_answers_are_marked_while_the_service_is_gone(
    served: Any, monkeypatch: pytest.MonkeyPatch, tiny_world: Path
) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_TASTES", str(tiny_world / "tastes.json"))
    pages = {script: run(script) for script in (_burst, _experts)}
    served.stop()
    for page in pages.values():
        deadline = time.monotonic() + 10
        while "What you see is from before" not in shown(page):
            assert time.monotonic() < deadline, shown(page)
            time.sleep(0.1)
            page.run()


def test_a_burst_needs_a_tastes_file(served: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("RECSYS_DASHBOARD_TASTES", raising=False)
    assert "RECSYS_DASHBOARD_TASTES" in shown(run(_burst))
    monkeypatch.setenv("RECSYS_DASHBOARD_TASTES", str(tmp_path / "none.json"))
    assert "no such file" in shown(run(_burst))


def test_a_burst_from_start_to_report(served: Any, monkeypatch: pytest.MonkeyPatch, tiny_world: Path) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_TASTES", str(tiny_world / "tastes.json"))
    page = run(_burst)
    assert "Nothing ran yet" in shown(page)
    page.slider(key="burst_factor").set_value(20)
    page.slider(key="burst_rate").set_value(200).run()
    assert "4000 requests/s at the peak" in shown(page)
    page.selectbox(key="burst_shape").set_value("steady")
    page.slider(key="burst_rate").set_value(5).run()
    page.slider(key="burst_length").set_value(60).run()
    page.button(key="burst_start").click().run()
    assert "One run at a time" in shown(page)
    page.button(key="burst_stop").click().run()
    deadline = time.monotonic() + 20
    while not page.dataframe and "No result" not in shown(page):
        assert time.monotonic() < deadline, shown(page)
        time.sleep(0.1)
        page.run()


def test_the_minute_with_a_device_per_expert_and_the_flip(
    served: Any, monkeypatch: pytest.MonkeyPatch, tiny_world: Path
) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_TASTES", str(tiny_world / "tastes.json"))
    page = run(_burst)
    assert not page.toggle(key="burst_devices_True").value, "needs the key, and there is none yet"
    assert "Needed for one device per expert" in shown(page), "said before the click"
    monkeypatch.setenv("RECSYS_DASHBOARD_KEY", "guess")
    page = run(_burst)
    assert "One minute, with one device per expert" in shown(page)
    assert page.toggle(key="burst_devices_True").value
    assert "Needed for" not in shown(page)
    assert "a step really waits for its fullest expert" in shown(page)
    page.button(key="burst_start").click().run()
    assert "does not accept this key" in shown(page)
    monkeypatch.setenv("RECSYS_DASHBOARD_KEY", "a-key-for-tests")
    page.button(key="burst_start").click().run()
    assert served.fake.lane_us == 60.0
    for policy, label in (("topk", "Flip back to price"), ("price", "Flip to plain top-k")):
        page.button(key="burst_flip").click().run()
        assert served.fake.policy == policy
        deadline = time.monotonic() + 20
        while page.button(key="burst_flip").label != label:
            assert time.monotonic() < deadline, shown(page)
            page.run()
    served.stop()
    page.button(key="burst_flip").click().run()
    assert "Not switched: No answer from" in shown(page)
    page.button(key="burst_stop").click().run()
    deadline = time.monotonic() + 20
    while connection.lab().run().going_on:  # type: ignore[union-attr]
        assert time.monotonic() < deadline, "the run did not end"
        time.sleep(0.05)


def test_system(served: Any) -> None:
    page = run_until(_system, "all its parts are heard")
    assert len(page.dataframe) == 7
    assert "None: every event could be applied" in shown(page)
    served.fake.silent = ("worker",)
    run_until(_system, "worker-3 (process 103 on made-up) fell silent 12 s ago")
    served.fake.fallback = True
    st.cache_data.clear()
    run_until(_system, "Not ready: no engine answers")
    served.stop()
    st.cache_data.clear()
    assert "as it was before, not now" in shown(run_until(_system, "Disconnected"))


def test_dead_letters_are_shown_to_whoever_has_the_key(served: Any) -> None:
    served.fake.letters = 3
    page = run_until(_system, "**3** events could not be applied")
    assert "user_id=eve" not in shown(page)
    page.button(key="letters_show").click().run()
    assert "needs the admin key" in shown(page)
    page.text_input(key="letters_key").set_value("guess")
    page.button(key="letters_show").click().run()
    assert "does not accept this key" in shown(page)
    page.text_input(key="letters_key").set_value("a-key-for-tests")
    page.button(key="letters_show").click().run()
    letters = next(table.value for table in page.dataframe if "what is wrong" in table.value.columns)
    assert letters["the event"].to_list() == ["type=interaction, user_id=eve"] * 3


def test_refusals_of_the_api_are_on_the_live_page(served: Any) -> None:
    served.fake.turned_away_per_s = 400.0
    page, deadline = run_until(_live, "Calm"), time.monotonic() + 20
    while True:
        shed, late = next(m.value for m in page.metric if m.label.startswith("Shed")).split(" · ")
        if 300 <= int(shed) <= 500:
            break
        assert time.monotonic() < deadline, shed
        time.sleep(0.1)
        page.run()
    assert late == "0"
    assert "Overload, and work is even" in shown(page)
    assert "of the queries are shed" in shown(page)
    assert "ladder of degradation, now shed" in shown(page)
    served.fake.traffic = False
    while "Overload: no query reaches an expert" not in shown(page):
        assert time.monotonic() < deadline + 20, shown(page)
        time.sleep(0.1)
        page.run()
    assert "nobody asks" not in shown(page)


def test_users_of_an_expert_and_nobody_who_asked(served: Any) -> None:
    page = run_until(_experts, "35 of 40 users")
    assert any("works more for users of" in str(table.proto) for table in page.dataframe)
    served.fake.traffic = False
    st.cache_data.clear()
    assert "nobody asked for anything" in shown(run(_experts))


def test_another_model_and_back(served: Any) -> None:
    page = run_until(_system, "`m-20`: serves on engine-0")
    page.button(key="activate_m-19").click().run()
    assert "needs the admin key" in shown(page)
    page.text_input(key="models_key").set_value("guess")
    page.button(key="activate_m-19").click().run()
    assert "does not accept this key" in shown(page)
    page.text_input(key="models_key").set_value("a-key-for-tests")
    page.button(key="activate_m-19").click().run()
    assert served.fake.version == "m-19"
    assert "`m-20`: not in service · served before" in shown(page)
    back = page.button(key="activate_m-20")
    assert back.label == "Roll back"
    back.click().run()
    assert served.fake.version == "m-20"
    served.stop()
    st.cache_data.clear()
    assert "Not known: No answer from" in shown(page.run())


PAGES = {"live": _live, "recommend": _recommend, "compare": _compare, "experts": _experts, "system": _system}
WELL = {
    "live": "Calm",
    "recommend": "of gate score kept",
    "compare": "The same items in the same order",
    "experts": "In words",
    "system": "`m-20`: serves on engine-0",
}


@pytest.mark.parametrize("name", PAGES)
@pytest.mark.parametrize("trouble", ["Redis cannot be reached", "no engine"])
def test_what_is_wrong_is_said_and_every_page_comes_back_by_itself(served: Any, name: str, trouble: str) -> None:
    served.fake.unavailable = trouble
    page = run_until(PAGES[name], trouble)
    served.fake.unavailable = ""
    deadline = time.monotonic() + 20
    while WELL[name] not in shown(page) or trouble in shown(page):  # what its timer does
        assert time.monotonic() < deadline, shown(page)
        st.cache_data.clear()
        time.sleep(0.1)
        page.run()


def test_without_the_load_test_the_lab_says_so_and_comes_back(
    served: Any, monkeypatch: pytest.MonkeyPatch, tiny_world: Path
) -> None:
    monkeypatch.setenv("RECSYS_DASHBOARD_TASTES", str(tiny_world / "tastes.json"))
    found = importlib.util.find_spec
    with monkeypatch.context() as absent:
        absent.setattr(
            importlib.util, "find_spec", lambda name, *rest: None if name == "locust" else found(name, *rest)
        )
        page = run(_burst)
        assert "The package `locust`" in shown(page)
    assert "Nothing ran yet" in shown(page.run())
