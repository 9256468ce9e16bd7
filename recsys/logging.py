"""Structured logs: key=value lines on a terminal, JSON elsewhere; one configuration for every process."""

from __future__ import annotations

import logging
import sys

import structlog


def configure_logging(*, as_json: bool = False) -> None:
    """Set structlog up for this process. Lines go to standard error; JSON if asked for or if nobody watches."""
    plain = sys.stderr.isatty() and not as_json
    renderer = structlog.dev.ConsoleRenderer() if plain else structlog.processors.JSONRenderer()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            renderer,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.PrintLoggerFactory(sys.stderr),
        cache_logger_on_first_use=True,
    )
