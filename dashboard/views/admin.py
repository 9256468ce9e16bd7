"""The admin key: where it comes from, and what to say when it is not the right one."""

from __future__ import annotations

import streamlit as st

from dashboard import connection
from dashboard.client import ApiError, RefusedError

NO_KEY = "This needs the admin key of the service."
WRONG_KEY = (
    "The service does not accept this key. It is the value of `RECSYS_API__ADMIN_KEY` where the API runs; "
    "an API without one refuses every admin call."
)


def key(name: str) -> str:
    """The key that the board was started with, else what is typed into a field of its own called `name`."""
    if configured := connection.configured_key():
        return configured
    return str(st.text_input("Admin key", type="password", autocomplete="off", key=name)).strip()


def typed_key(name: str) -> str:
    """The same, in a callback, which runs before the page is drawn again."""
    return connection.configured_key() or str(st.session_state.get(name, "")).strip()


def explain(error: ApiError, what: str) -> str:
    """Why `what` did not happen."""
    if isinstance(error, RefusedError) and error.wrong_key:
        return WRONG_KEY
    return f"{what}: {error}"


def tell(kind: str, text: str) -> None:
    """The outcome of the last attempt: `success`, `error`, or nothing."""
    if kind == "error":
        st.error(text)
    elif kind == "success":
        st.success(text)
