"""Entry point of Streamlit: navigation and the look that all pages share. Start it with `python -m dashboard`."""

from __future__ import annotations

import streamlit as st

from dashboard import style
from dashboard.collector import freeze_modules
from dashboard.views import burst_lab, compare, experts, live, recommend, system

st.set_page_config(page_title="Experts, live", page_icon="🔀", layout="wide")
style.apply()
start = st.Page(live.page, title="Live", icon=":material/monitoring:", default=True)
st.navigation(
    [
        start,
        st.Page(recommend.page, title="Recommend", icon=":material/recommend:", url_path="recommend"),
        st.Page(compare.page, title="Compare", icon=":material/compare_arrows:", url_path="compare"),
        st.Page(burst_lab.page, title="Burst lab", icon=":material/science:", url_path="burst"),
        st.Page(experts.page, title="Experts", icon=":material/psychology:", url_path="experts"),
        st.Page(system.page, title="System", icon=":material/dns:", url_path="system"),
        st.Page(lambda: st.switch_page(start), title="Live", url_path="live", visibility="hidden"),  # for links
    ],
    position="top",
).run()
freeze_modules()
