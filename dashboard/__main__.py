"""`python -m dashboard`: start the board."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

FOLDER = Path(__file__).resolve().parent


def main(arguments: list[str] | None = None) -> None:
    """Replace this process by Streamlit, run from this folder because its theme is read from there."""
    parser = argparse.ArgumentParser(prog="python -m dashboard", description="The live board of the recommender.")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=int, default=8501, help="port to listen on (default: %(default)s)")
    parser.add_argument("--api", default=None, metavar="URL", help="the service; default $RECSYS_API_URL")
    options = parser.parse_args(arguments)
    if not 1 <= options.port <= 65_535:
        parser.error(f"--port: must be 1 to 65535, got {options.port}")
    if options.api is not None:
        os.environ["RECSYS_API_URL"] = options.api
    os.environ.setdefault("POLARS_MAX_THREADS", "1")  # frames are small: more threads only burn the service's cores
    # The board's modules are found wherever it is started from.
    os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, [str(FOLDER.parent), os.environ.get("PYTHONPATH", "")]))
    os.chdir(FOLDER)
    command = [sys.executable, "-m", "streamlit", "run", "app.py"]
    flags = [f"--server.address={options.host}", f"--server.port={options.port}", "--server.headless=true"]
    os.execv(sys.executable, [*command, *flags, "--browser.gatherUsageStats=false"])


if __name__ == "__main__":
    main()
