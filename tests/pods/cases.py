"""The list of tests: a decorator puts them there, run.py takes them from there."""

import json

ALL = []


def case(function):
    """A test, named as the property that it proves; takes a World."""
    ALL.append(function)
    return function


def check(condition, what):
    """`what` is said when it is not so; anything may be given with it."""
    if not condition:
        raise AssertionError(what if isinstance(what, str) else json.dumps(what, default=str)[:2000])


def all_well(said, why=""):
    """An app whose calls have all succeeded, the first too."""
    check(said.get("first", {}).get("ok"), f"the very first call failed {why}: {said}")
    summary = said.get("summary")
    check(summary, f"the app has not ended by itself {why}: {said}")
    check(summary["failed"] == 0, f"calls failed {why}: {summary}")
    return summary
