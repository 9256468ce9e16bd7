"""`python -m loadtest --shape flash_crowd --rate 50 --host http://127.0.0.1:8000`: one headless run.

Exit code 0: all thresholds held; 1: one did not; 2: the run could not start. Options unknown here go to Locust.
"""

from __future__ import annotations

import sys
from pathlib import Path

import configargparse  # type: ignore[import-untyped]
from locust.main import main as run_locust

from loadtest.options import LoadTestError, Options, add_arguments, as_arguments

LOCUSTFILE = Path(__file__).with_name("locustfile.py")


def main(argv: list[str]) -> None:
    """Run Locust headless with our locustfile; ends the process with the exit code above."""
    parser = configargparse.ArgumentParser(prog="python -m loadtest", description=__doc__, allow_abbrev=False)
    parser.add_argument("--host", default="http://127.0.0.1:8000", help="service to load (default %(default)s)")
    parser.add_argument("--csv", metavar="PREFIX", help="write Locust's tables to PREFIX_stats.csv and others")
    parser.add_argument("--json", metavar="FILE", help="same as --summary-file")
    add_arguments(parser)
    parsed, for_locust = parser.parse_known_args(argv)
    if parsed.json:
        parsed.summary_file = parsed.json
    try:
        options = Options.from_namespace(parsed)
    except LoadTestError as error:
        parser.error(str(error))
    csv = ["--csv", parsed.csv] if parsed.csv else []
    quiet = ["--loglevel", "WARNING"] if sys.stderr.isatty() else []  # log lines would break the progress bar
    sys.argv = ["locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", "--host", parsed.host]
    sys.argv += [*csv, *quiet, *as_arguments(options), *_on_this_machine(for_locust)]
    run_locust()


def _on_this_machine(for_locust: list[str]) -> list[str]:
    """A master listens for workers on the loopback unless told otherwise."""
    names = {argument.partition("=")[0] for argument in for_locust}
    if names & {"--master", "--processes"} and "--master-bind-host" not in names:
        return [*for_locust, "--master-bind-host=127.0.0.1"]
    return for_locust


if __name__ == "__main__":
    main(sys.argv[1:])
