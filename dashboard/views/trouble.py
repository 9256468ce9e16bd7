"""What a page shows instead of an answer or above an old one, and how it comes back by itself."""

from __future__ import annotations

import time

import streamlit as st

from dashboard import connection
from dashboard.client import ApiError, RefusedError, UnreachableError

RETRY_S = 2.0


def show(error: ApiError) -> None:
    """Say what is wrong; if waiting may help, try again every two seconds."""
    if isinstance(error, RefusedError) and 400 <= error.status < 500 and error.status != 429:
        st.error(f"The service refused this request: {error}", icon=":material/error:")
        return
    title = "Disconnected" if isinstance(error, UnreachableError) else "The service cannot answer now"
    st.error(f"**{title}.** {error}. Trying again every {RETRY_S:.0f} s.", icon=":material/cloud_off:")
    again()


def again() -> None:
    """Draw the page anew in two seconds: a better answer may come."""
    st.session_state["trouble_at"] = time.monotonic()
    _retry()


@st.fragment(run_every=RETRY_S)
def _retry() -> None:
    """Draw the page again once the background poller reaches the service."""
    waited = time.monotonic() - st.session_state.get("trouble_at", 0.0) > RETRY_S / 2
    if connection.poller().look().error is None and waited:
        st.rerun(scope="app")


@st.fragment(run_every=RETRY_S)
def watch() -> None:
    """Say above a page of earlier answers that the service is gone; the line leaves by itself."""
    error = connection.poller().look().error
    if error is not None:
        st.error(f"**Disconnected.** {error}. What you see is from before.", icon=":material/cloud_off:")
