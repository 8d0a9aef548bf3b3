"""`make mutants` reports what no test noticed, and fails unless each such change is explained."""

from dev.mutants import describe, report

DIFF = """\
--- domain/carts.py
+++ domain/carts.py
@@ -1,4 +1,4 @@
 def _is_newer(cart, at):
-    return cart.as_of > at
+    return cart.as_of >= at
"""
NAME = "domain.carts.x__is_newer__mutmut_2"
CHANGE = "`domain.carts._is_newer`: `return cart.as_of > at` -> `return cart.as_of >= at`"


def test_a_mutant_is_described_by_its_function_and_its_lines() -> None:
    """The lines stand as in the source; the number of the mutant, which changes with every edit, is left out."""
    assert CHANGE == describe(NAME, DIFF)


def test_a_method_is_described_with_its_class() -> None:
    """Lines that belong together are joined; removed ones have nothing in their place."""
    removed = "--- a\n+++ a\n-        case _:\n-            assert_never(task)\n"
    assert "`engine.judge._Fold.judge`: `case _: assert_never(task)` -> `nothing`" == describe(
        "engine.judge.xǁ_Foldǁjudge__mutmut_6", removed
    )


def test_every_survivor_is_listed_with_its_change() -> None:
    """So that its reader sees what no test noticed; the last line has the figures."""
    last = "killed 39 of 40 (97.5%); survivors without an explanation: 1"
    assert ([f"NOT EXPLAINED: {NAME}: {CHANGE}", last], False) == report(40, {NAME: CHANGE}, "Something else.")


def test_an_explained_survivor_is_accepted() -> None:
    """The explanation quotes the change, in lines of any length."""
    explanations = f"# Survivors\n\n- {CHANGE.replace(' -> ', chr(10) + '  -> ')}: because"
    last = "killed 39 of 40 (97.5%); survivors without an explanation: 0"
    assert ([f"explained: {NAME}: {CHANGE}", last], True) == report(40, {NAME: CHANGE}, explanations)


def test_explanations_do_not_replace_tests() -> None:
    """Below 95% the run fails, whatever is explained."""
    survivors = {f"name {number}": CHANGE for number in range(3)}
    assert (True, False) == (report(60, survivors, CHANGE)[1], report(59, survivors, CHANGE)[1])


def test_nothing_to_run_is_a_failure() -> None:
    """A pattern that selects no mutant has shown nothing."""
    assert (["killed 0 of 0; no mutant was selected"], False) == report(0, {}, "")
