"""The switch of the live routing policy."""

from __future__ import annotations

import streamlit as st

from dashboard import connection
from dashboard.answers import Router
from dashboard.client import ApiError, RefusedError

POLICY_NOTES = {
    "price": "work moves to where score − price is best",
    "topk": "every token goes where it wishes",
    "drop": "what exceeds the capacity is left out",
    "hash": "blind to scores and load",
    "p2c": "the less loaded of two choices",
}
NO_KEY = "Switching needs the admin key of the service."
WRONG_KEY = (
    "The service does not accept this key. It is the value of `RECSYS_API__ADMIN_KEY` where the API runs; "
    "an API without one refuses every admin call."
)


def steer(router: Router | None) -> None:
    """Show policy and capacity factor as the label of a menu in which they can be switched."""
    label = "Policy" if router is None else f"{router.policy} · {router.capacity_factor:.2f}×"
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
            key = connection.configured_key()
            if not key:
                key = st.text_input("Admin key", type="password", autocomplete="off", key="steer_key").strip()
            if st.form_submit_button("Switch", type="primary"):
                st.session_state["steer_outcome"] = _switch(policy, factor, key)
        _tell(*st.session_state.get("steer_outcome", ("", "")))
        behind = sorted(engine for engine, active in router.active.items() if active != router.policy)
        if behind:
            st.caption(f"Still running another policy: {', '.join(behind)}")


def _switch(policy: str, factor: float, key: str) -> tuple[str, str]:
    """Ask the service to switch; what to tell, as (kind, text)."""
    if not key:
        return "error", NO_KEY
    try:
        connection.client().set_router(policy=policy, capacity_factor=round(factor, 2), key=key)
    except RefusedError as error:
        return "error", WRONG_KEY if error.wrong_key else f"Not switched: {error}"
    except ApiError as error:
        return "error", f"Not switched: {error}"
    connection.poller().refresh()
    return "success", f"Switched to {policy} at {factor:.2f}×. Engines follow within half a second."


def _tell(kind: str, text: str) -> None:
    if kind == "error":
        st.error(text)
    elif kind == "success":
        st.success(text)
