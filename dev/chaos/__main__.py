"""`python -m dev.chaos`: run the faults, then the ablations, and print one line for each run."""

import argparse
import asyncio
import pickle
import random
import sys
import tempfile
import time
from collections import Counter
from math import isnan
from pathlib import Path

from dev.chaos.ablation_scenarios import SCENARIOS, Scenario, is_found, run_scenario
from dev.chaos.cluster import Servers, open_servers
from dev.chaos.errors import ChaosError
from dev.chaos.run import Options, Result, Say, recoveries_by_kind, run
from dev.chaos.subject import describe_subject

MAX_VIOLATIONS_SHOWN = 20
MAX_SUBJECTS_SHOWN = 5


def main() -> int:
    """Run what the command line asks for; returns 0 if nothing was violated and every ablation was detected."""
    options = _options()
    started = time.monotonic()

    def say(message: str) -> None:
        sys.stderr.write(f"[{time.monotonic() - started:6.1f}] {message}\n")

    directory = options.directory or Path(tempfile.mkdtemp(prefix="chaos-"))
    directory.mkdir(parents=True, exist_ok=True)
    say(f"seed {options.seed}; the workers' logs are in {directory}")
    settings = Options(options.seed, options.seconds, options.rate, directory, frozenset(options.faults))
    try:
        with open_servers() as servers:
            failed = 0
            if options.seconds > 0:
                result = asyncio.run(run(servers, settings, say))
                if result.violations or options.keep:
                    _keep(result, directory)
                _print(result)
                failed += bool(result.violations)
            for scenario in SCENARIOS if options.ablations else ():
                failed += not _is_proven(servers, scenario, settings, say)
    except ChaosError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    return 1 if failed else 0


def _is_proven(servers: Servers, scenario: Scenario, options: Options, say: Say) -> bool:
    """Run a scenario with the complete and the ablated worker; true if only the ablated one is caught."""
    whole = asyncio.run(run_scenario(servers, scenario, "whole", options, say))
    ablated = asyncio.run(run_scenario(servers, scenario, scenario.ablation, options, say))
    found = Counter(violation.kind for violation in ablated.violations)
    proven = is_found(scenario, ablated) and not whole.violations
    for violation in whole.violations[:MAX_VIOLATIONS_SHOWN]:
        sys.stdout.write(f"VIOLATION without ablation {violation.kind} {violation.subject}: {violation.message}\n")
    sys.stdout.write(
        f"ablation={scenario.ablation} detected={'yes' if is_found(scenario, ablated) else 'NO'} "
        f"by={','.join(f'{kind}:{count}' for kind, count in sorted(found.items())) or 'nothing'} "
        f"whole_worker_violations={len(whole.violations)}\n"
    )
    return proven


def _keep(result: Result, directory: Path) -> None:
    """Save the evidence so that it can be checked again (`python -m dev.chaos.recheck FILE`)."""
    path = directory / f"evidence-{result.options.seed}.pickle"
    path.write_bytes(pickle.dumps(result.evidence))
    sys.stdout.write(f"the evidence is in {path}\n")


def _print(result: Result) -> None:
    for violation in result.violations[:MAX_VIOLATIONS_SHOWN]:
        sys.stdout.write(f"VIOLATION {violation.kind} {violation.subject}: {violation.message}\n")
    for subject in list(dict.fromkeys(violation.subject for violation in result.violations))[:MAX_SUBJECTS_SHOWN]:
        sys.stdout.write("".join(f"  {line}\n" for line in describe_subject(result.evidence, subject)))
    if len(result.violations) > MAX_VIOLATIONS_SHOWN:
        sys.stdout.write(f"... and {len(result.violations) - MAX_VIOLATIONS_SHOWN} more violations\n")
    for kind, (count, median, longest) in recoveries_by_kind(result.faults).items():
        alone = "never alone" if isnan(median) else f"alone: median {median:.2f} s, longest {longest:.2f} s"
        sys.stdout.write(f"{kind:18} {count:4} times; {alone}\n")
    sys.stdout.write(f"{result.line()}\n")


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m dev.chaos", description=__doc__)
    parser.add_argument("--seconds", type=float, default=600.0, help="how long faults are injected")
    parser.add_argument("--rate", type=float, default=300.0, help="events a second")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(1_000_000))
    parser.add_argument("--faults", nargs="*", default=(), metavar="NAME", help="only these faults")
    parser.add_argument("--keep", action="store_true", help="keep the evidence even without violations")
    parser.add_argument("--no-ablations", dest="ablations", action="store_false", help="skip the ablations")
    parser.add_argument("--directory", type=Path, help="where the workers' logs go")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
