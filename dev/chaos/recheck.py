"""`python -m dev.chaos.recheck FILE [SUBJECT ...]`: check kept evidence again, or show all it has on a subject."""

import pickle
import sys
from pathlib import Path

from dev.chaos.checker import judge
from dev.chaos.run import RULES
from dev.chaos.subject import describe_subject


def main() -> int:
    """Print what the evidence has on each subject, then the violations; returns 1 if there are any."""
    evidence = pickle.loads(Path(sys.argv[1]).read_bytes())  # noqa: S301 - written by ourselves, a moment ago
    for subject in sys.argv[2:]:
        sys.stdout.write("".join(f"{line}\n" for line in describe_subject(evidence, subject)))
    finding = judge(evidence, RULES)
    for violation in finding.violations:
        sys.stdout.write(f"VIOLATION {violation.kind} {violation.subject}: {violation.message}\n")
    sys.stdout.write(f"{finding.line}\n")
    return 1 if finding.violations else 0


if __name__ == "__main__":
    sys.exit(main())
