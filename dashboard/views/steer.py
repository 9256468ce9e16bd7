"""The switch of the live routing policy, its bounds, and the way back if it costs too much."""

from __future__ import annotations

import time

import streamlit as st

from dashboard import connection
from dashboard.answers import Router
from dashboard.client import ApiError
from dashboard.views import admin

POLICY_NOTES = {
    "price": "work moves to where score − price is best",
    "topk": "every token goes where it wishes",
    "drop": "what exceeds the capacity is left out",
    "hash": "blind to scores and load",
    "p2c": "the less loaded of two choices",
}
NEVER = 0.0
BUDGETS = [NEVER, 0.99, 0.97, 0.95, 0.9, 0.8]
BUDGET_S = 5.0
RETURN_SHOWN_S = 120.0


def steer(router: Router | None) -> None:
    """Show policy and capacity factor as the label of a menu in which they can be switched."""
    label = "Policy" if router is None else f"{router.policy} · {router.capacity_factor:.2f}×"
    if router is not None and router.lane_us:
        label += " · emulated devices"
    why = "Routing policy and capacity factor. Open to switch."
    with st.popover(label, icon=":material/tune:", help=why, key="steer"), st.container(width=340):
        if router is None:
            st.info("The policy is not known until the service answers.", icon=":material/cloud_off:")
            return
        with st.form("steer_form", border=False):
            policy = st.selectbox(
                "Routing policy",
                router.policies,
                index=router.policies.index(router.policy) if router.policy in router.policies else 0,
                format_func=lambda name: f"{name}: {POLICY_NOTES[name]}" if name in POLICY_NOTES else name,
            )
            factor = st.slider(
                "Capacity factor, × mean load",
                min_value=1.0,
                max_value=max(4.0, router.capacity_factor),
                value=router.capacity_factor,
                step=0.05,
                help="Slots of an expert in calm, relative to an even spread. 1 leaves no slack.",
            )
            budget = st.selectbox(
                "Go back by itself",
                BUDGETS,
                format_func=lambda least: f"below {least:.0%} of the gate score" if least else "never",
                help=f"If the new policy keeps less of the gate score over {BUDGET_S:.0f} s, the one before returns.",
                key="steer_budget",
            )
            key = admin.key("steer_key")
            if st.form_submit_button("Switch", type="primary"):
                st.session_state["steer_outcome"] = _switch(policy, factor, budget, key)
        admin.tell(*st.session_state.get("steer_outcome", ("", "")))
        _standing(router)


def returned(router: Router | None) -> str:
    """Why the policy went back by itself a moment ago; empty if it did not."""
    if router is None or router.returned is None:
        return ""
    ago_s = time.time() - router.returned.ts / 1e3
    return f"The policy went back by itself {ago_s:.0f} s ago: {router.returned.why}" if ago_s < RETURN_SHOWN_S else ""


def _standing(router: Router) -> None:
    """What holds now besides the policy."""
    if router.lane_us:
        st.caption(
            f"Emulated: one device per expert, {router.lane_us:g} µs a slot. A step waits for its fullest expert."
        )
    if (budget := router.quality_budget) is not None:
        st.caption(
            f"Goes back to **{budget.previous_policy}** at {budget.previous_capacity_factor:.2f}× if less than "
            f"{budget.score_kept_min:.0%} of the gate score is kept over {budget.seconds:.0f} s."
        )
    if told := returned(router):
        st.warning(told, icon=":material/undo:")
    behind = sorted(engine for engine, active in router.active.items() if active != router.policy)
    if behind:
        st.caption(f"Still running another policy: {', '.join(behind)}")


def _switch(policy: str, factor: float, budget: float, key: str) -> tuple[str, str]:
    """Ask the service to switch; what to tell, as (kind, text)."""
    if not key:
        return "error", admin.NO_KEY
    wanted = {"score_kept_min": budget, "seconds": BUDGET_S} if budget else None
    try:
        connection.client().set_router(policy=policy, capacity_factor=round(factor, 2), quality_budget=wanted, key=key)
    except ApiError as error:
        return "error", admin.explain(error, "Not switched")
    connection.poller().refresh()
    return "success", f"Switched to {policy} at {factor:.2f}×. Engines follow within half a second."
