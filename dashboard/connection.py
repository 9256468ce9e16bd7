"""The one client, the one poller and the one load run of this process, shared by all viewers."""

from __future__ import annotations

import os

import streamlit as st

from dashboard.burst import Lab
from dashboard.client import Client
from dashboard.poller import Poller

DEFAULT_URL = "http://127.0.0.1:8000"


def api_url() -> str:
    """Base URL of the service, from `RECSYS_API_URL`."""
    return os.environ.get("RECSYS_API_URL", "").strip() or DEFAULT_URL


def configured_key() -> str:
    """Admin key that the board was started with, from `RECSYS_DASHBOARD_KEY`; empty if none."""
    return os.environ.get("RECSYS_DASHBOARD_KEY", "")


def tastes() -> str:
    """File with the world's tastes that load runs need, from `RECSYS_DASHBOARD_TASTES`; empty if none."""
    return os.environ.get("RECSYS_DASHBOARD_TASTES", "").strip()


def events_file() -> str:
    """File of real events to replay, from `RECSYS_DASHBOARD_EVENTS`; empty if none."""
    return os.environ.get("RECSYS_DASHBOARD_EVENTS", "").strip()


def client() -> Client:
    """Client of the service; holds no connection, so viewers share it freely."""
    return _client(api_url())


def poller() -> Poller:
    """The background poller; starts with the first viewer."""
    return _poller(api_url())


def lab() -> Lab:
    """Where load runs are started; one for all viewers."""
    return _lab(api_url())


@st.cache_resource(show_spinner=False, max_entries=4, on_release=Lab.stop)
def _lab(url: str) -> Lab:
    watched = _poller(url)
    return Lab(lambda: watched.look().snapshots)


@st.cache_resource(show_spinner=False, max_entries=4)
def _client(url: str) -> Client:
    return Client(url)


@st.cache_resource(show_spinner=False, max_entries=4, on_release=Poller.stop)
def _poller(url: str) -> Poller:
    return Poller(Client(url))
