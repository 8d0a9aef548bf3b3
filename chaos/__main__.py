"""`python -m chaos`: run the faults, then the ablations, and print one line for each run."""

import argparse
import asyncio
import pickle
import random
import sys
import tempfile
import time
from pathlib import Path

from chaos.cluster import open_servers
from chaos.errors import ChaosError
from chaos.run import Options, Result, recoveries_by_kind, run
from chaos.story import tell

MAX_SHOWN = 20
MAX_TOLD = 5


def main() -> int:
    """Run what the command line asks for; 0 when every promise was kept and every ablation was found out."""
    options = _options()
    started = time.monotonic()

    def say(message: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.1f}] {message}\n")

    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}; the workers' logs are in {directory}")
    try:
        with open_servers() as servers:
            result = asyncio.run(run(servers, Options(options.seed, options.seconds, options.rate, directory), say))
    except ChaosError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    (directory / f"evidence-{options.seed}.pickle").write_bytes(pickle.dumps(result.evidence))
    _print(result)
    return 1 if result.violations else 0


def _print(result: Result) -> None:
    for violation in result.violations[:MAX_SHOWN]:
        sys.stdout.write(f"VIOLATION {violation.kind} {violation.subject}: {violation.message}\n")
    for subject in list(dict.fromkeys(violation.subject for violation in result.violations))[:MAX_TOLD]:
        sys.stdout.write("".join(f"  {line}\n" for line in tell(result.evidence, subject)))
    if len(result.violations) > MAX_SHOWN:
        sys.stdout.write(f"... and {len(result.violations) - MAX_SHOWN} more violations\n")
    for kind, (count, median, longest) in recoveries_by_kind(result.faults).items():
        sys.stdout.write(f"{kind:18} {count:4} times; alone: median {median:6.2f} s, longest {longest:6.2f} s\n")
    sys.stdout.write(f"{result.line()}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults are made")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--directory", type=Path, help="where the workers' logs go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
