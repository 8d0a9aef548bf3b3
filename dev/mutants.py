"""`python -m dev.mutants [PATTERN ...]`: change one expression of the rules at a time; list what no unit test notices.

mutmut writes a copy of the tree that holds every mutant. Its own runner starts pytest once per mutant; this one
collects the tests once and forks. A child switches one mutant on and runs the tests that reach its function, quickest
first, until one fails; the property tests, which take longest, come last. Patterns select mutants by the names that
are printed; `mutmut show NAME` prints the change.
"""

import argparse
import gc
import os
import resource
import shutil
import signal
import sys
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from fnmatch import fnmatch
from pathlib import Path
from typing import NoReturn

import pytest
from _pytest.runner import runtestprotocol
from hypothesis import HealthCheck, Phase, settings
from mutmut import __main__ as mutmut
from mutmut.configuration import config
from mutmut.mutation.diff_apply import get_diff_for_mutant
from mutmut.mutation.trampoline import set_mutant_under_test
from mutmut.state import state
from mutmut.utils.file_utils import copy_also_copy_files, copy_src_dir
from mutmut.utils.format_utils import (
    get_module_from_key,
    mangled_name_from_mutant_name,
    orig_function_and_class_names_from_key,
)

REQUIRED_SHARE = 0.95
_TREE = Path("mutants")
_EXPLANATIONS = Path("docs/mutants.md")
_PROGRESS_EVERY = 100

# A mutant that loops or allocates without end is noticed by these limits, far above what the tests need.
_EXAMPLES_CPU_SECONDS = 30
_PROPERTIES_CPU_SECONDS = 600
_MEMORY_BYTES = 4 << 30

# Exit codes of a child; Python's own is 1 after an exception.
_SURVIVED, _NOTICED, _BROKEN = 0, 10, 11

NO_MUTANT = ""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the mutants and report; returns 1 if too few are killed or a survivor is not explained."""
    parser = argparse.ArgumentParser(prog="python -m dev.mutants", description=__doc__)
    parser.add_argument("--processes", type=int, default=os.cpu_count() or 1, help="default: one per core")
    parser.add_argument("--only-examples", action="store_true", help="leave out the property tests: minutes, not hours")
    parser.add_argument("patterns", nargs="*", metavar="PATTERN", help="for example 'domain.carts.*'; default: all")
    options = parser.parse_args(arguments)
    root = Path.cwd()
    paths = _generate(options.patterns or ["*"])
    run = _Run(list(paths), options.processes, only_examples=options.only_examples)
    code = _pytest(run)
    os.chdir(root)
    if code != 0 or run.survivors is None:
        return int(code) or 1
    changes = {name: describe(name, get_diff_for_mutant(name, path=paths[name])) for name in run.survivors}
    lines, passed = report(len(paths), changes, _EXPLANATIONS.read_text())
    sys.stdout.write("\n".join(lines) + "\n")
    return 0 if passed else 1


def _generate(patterns: Sequence[str]) -> dict[str, Path]:
    """Write the tree of mutants afresh; return the file of each selected mutant, by its name."""
    shutil.rmtree(_TREE, ignore_errors=True)
    _TREE.mkdir()
    with Path(os.devnull).open("w", encoding="utf-8") as nowhere, redirect_stdout(nowhere):
        copy_src_dir()
        copy_also_copy_files()
        mutmut.create_mutants(os.cpu_count() or 1)
    mutants, _ = mutmut.collect_source_file_mutation_data(mutant_names=[])
    return {name: Path(data.path) for data, name, _ in mutants if any(fnmatch(name, pattern) for pattern in patterns)}


def _pytest(run: "_Run") -> int:
    """Collect the tests inside the tree of mutants and hand them to the run."""
    # The same examples in every run, none kept, and no time spent on shrinking what failed.
    settings.register_profile(
        "mutants",
        database=None,
        deadline=None,
        derandomize=True,
        phases=(Phase.explicit, Phase.generate),
        suppress_health_check=list(HealthCheck),
    )
    settings.load_profile("mutants")
    selection = config().pytest_add_cli_args_test_selection
    os.chdir(_TREE)
    sys.path.insert(0, str(Path.cwd()))
    sys.dont_write_bytecode = True
    options = ["--rootdir=.", "--quiet", "--no-header", "--no-summary", "--capture=no", "-p", "no:cacheprovider"]
    options += ["--assert=plain", "--tb=native"]  # nobody reads why a test failed
    options += ["-W", "ignore::pytest.PytestAssertRewriteWarning"]  # hypothesis is already imported
    return int(pytest.main([*options, *selection], plugins=[run]))


class _Run:
    """A pytest plugin that runs the collected tests on each mutant, in a child process of its own.

    `survivors` are the names of the mutants that no test noticed; None until the run is complete.
    """

    def __init__(self, names: Sequence[str], processes: int, *, only_examples: bool) -> None:
        self._names = names
        self._processes = processes
        self._only_examples = only_examples
        self._running: dict[int, str] = {}
        self._survived: list[str] = []
        self._finished = 0
        self._started = time.monotonic()
        self.survivors: list[str] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Replace pytest's own loop."""
        if session.testsfailed:
            return False
        properties = [item for item in session.items if item.get_closest_marker("hypothesis")]
        examples = [item for item in session.items if item not in properties]
        reaching = _trace(examples)
        gc.freeze()  # so that the collector of a child leaves the shared memory alone
        self._start(NO_MUTANT, examples, properties)
        for name in self._names:
            while len(self._running) >= self._processes:
                self._reap()
            self._start(name, reaching.get(mangled_name_from_mutant_name(name), []), properties)
        while self._running:
            self._reap()
        self.survivors = self._survived
        return True

    def _start(self, name: str, examples: Sequence[pytest.Item], properties: Sequence[pytest.Item]) -> None:
        pid = os.fork()
        if pid == 0:
            _judge(name, examples, [] if self._only_examples else properties)
        self._running[pid] = name

    def _reap(self) -> None:
        """Wait until one child ends."""
        pid, status = os.wait()
        name = self._running.pop(pid)
        if os.WIFSIGNALED(status):
            if os.WTERMSIG(status) != signal.SIGXCPU:
                raise RuntimeError(f"{name}: its process was ended by signal {os.WTERMSIG(status)}")
            self._finish(name, noticed=True)
        elif os.WEXITSTATUS(status) in {_SURVIVED, _NOTICED}:
            self._finish(name, noticed=os.WEXITSTATUS(status) == _NOTICED)
        else:
            raise RuntimeError(f"{name}: its process failed with exit code {os.WEXITSTATUS(status)}")

    def _finish(self, name: str, *, noticed: bool) -> None:
        if name == NO_MUTANT:
            if noticed:
                raise RuntimeError("the tests fail without any mutant: run them by themselves")
            return
        self._finished += 1
        if not noticed:
            self._survived.append(name)
            sys.stdout.write(f"survived: {name}\n")
        if self._finished % _PROGRESS_EVERY == 0:
            seconds = time.monotonic() - self._started
            sys.stdout.write(f"{self._finished} of {len(self._names)} mutants after {seconds:.0f} s\n")
        sys.stdout.flush()


def _trace(examples: Sequence[pytest.Item]) -> dict[str, list[pytest.Item]]:
    """Run each test once without a mutant; return those that reach each function, quickest first."""
    set_mutant_under_test("stats")
    called = state()._stats  # noqa: SLF001 - where mutmut's trampolines note the functions that are called
    reaching: dict[str, list[tuple[float, pytest.Item]]] = defaultdict(list)
    for item, following in zip(examples, [*examples[1:], None], strict=True):
        called.clear()
        started = time.process_time()
        if not _passes(item, following):
            raise RuntimeError(f"{item.nodeid} fails without any mutant")
        seconds = time.process_time() - started
        for function in called:
            reaching[function].append((seconds, item))
    set_mutant_under_test("")
    return {
        function: [item for _, item in sorted(tests, key=lambda test: test[0])] for function, tests in reaching.items()
    }


def _judge(name: str, examples: Sequence[pytest.Item], properties: Sequence[pytest.Item]) -> NoReturn:
    """Run the tests on one mutant and exit: in the child."""
    code = _BROKEN
    try:
        resource.setrlimit(resource.RLIMIT_AS, (_MEMORY_BYTES, _MEMORY_BYTES))
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
        os.dup2(nowhere, sys.stderr.fileno())
        set_mutant_under_test(name)
        noticed = False
        for tests, cpu_seconds in ((examples, _EXAMPLES_CPU_SECONDS), (properties, _PROPERTIES_CPU_SECONDS)):
            limit = int(time.process_time()) + cpu_seconds
            resource.setrlimit(resource.RLIMIT_CPU, (limit, resource.RLIM_INFINITY))
            noticed = noticed or not all(map(_passes, tests, [*tests[1:], None]))
        code = _NOTICED if noticed else _SURVIVED
    finally:
        os._exit(code)


def _passes(item: pytest.Item, following: pytest.Item | None) -> bool:
    """Run one test; fixtures that `following` shares stay set up."""
    return not any(phase.failed for phase in runtestprotocol(item, log=False, nextitem=following))


def describe(name: str, diff: str) -> str:
    """Return a mutant as a list item of the explanations: its function, and the lines before and after the change."""
    function, class_name = orig_function_and_class_names_from_key(name)
    path = ".".join(part for part in (get_module_from_key(name), class_name, function) if part)
    lines = [line for line in diff.splitlines() if not line.startswith(("---", "+++"))]
    before, after = (" ".join(line[1:].strip() for line in lines if line.startswith(sign)) for sign in "-+")
    return f"`{path}`: `{before}` -> `{after or 'nothing'}`"


def report(total: int, survivors: Mapping[str, str], explanations: str) -> tuple[list[str], bool]:
    """Return the lines to print, and whether enough mutants were killed and every survivor is explained.

    `survivors` are the descriptions by name. An explanation quotes the description; line breaks do not count.
    """
    quoted = " ".join(explanations.split())
    lines = []
    unexplained = 0
    for name, description in sorted(survivors.items()):
        explained = " ".join(description.split()) in quoted
        unexplained += not explained
        lines.append(f"{'explained' if explained else 'NOT EXPLAINED'}: {name}: {description}")
    if total == 0:
        return ["killed 0 of 0; no mutant was selected"], False
    killed = total - len(survivors)
    share = killed / total
    lines.append(f"killed {killed} of {total} ({share:.1%}); survivors without an explanation: {unexplained}")
    return lines, share >= REQUIRED_SHARE and unexplained == 0


if __name__ == "__main__":
    sys.exit(main())
