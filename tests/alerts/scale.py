#!/usr/bin/env python3
"""Writes the rule file with every duration divided by one factor; nothing else is changed.

    tests/alerts/scale.py --factor 60 charts/sf-token-proxy/files/rules.yaml > scaled.yaml

Durations are the windows in brackets, `offset`, and `for:`. Thresholds stay as they are: rates and ratios do not depend on the
window, and instants (a token's or a certificate's end) are no windows. Counts do: 10 calls in a window of 10 minutes are 10 in 10 s,
so what has to pass such a line is driven so much faster in the live test.
"""

import argparse
import pathlib
import re
import sys

UNITS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800}
DURATION = r"(?:\d+(?:ms|[smhdw]))+"
PLACES = re.compile(rf"(?P<before>\[|\boffset |^ *for: ){DURATION}(?=\]|$|[ )])", re.MULTILINE)


def seconds(duration):
    return sum(int(number) * UNITS[unit] for number, unit in re.findall(r"(\d+)(ms|[smhdw])", duration))


def written(span):
    """In Prometheus' form: whole milliseconds, the largest unit that divides them."""
    millis = round(span * 1000)
    for unit in ("d", "h", "m", "s"):
        if millis % round(UNITS[unit] * 1000) == 0:
            return f"{millis // round(UNITS[unit] * 1000)}{unit}"
    return f"{millis}ms"


def scaled(text, factor):
    def shorter(found):
        before = found["before"]
        return before + written(seconds(found[0][len(before):]) / factor)

    # Comments are no rules.
    return "".join(line if line.lstrip().startswith("#") else PLACES.sub(shorter, line) for line in text.splitlines(keepends=True))


def skeleton(text):
    """The text without its durations: the same before and after."""
    return "".join(
        line if line.lstrip().startswith("#") else PLACES.sub(lambda found: found["before"], line) for line in text.splitlines(keepends=True)
    )


def main():
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--factor", type=float, required=True)
    options.add_argument("rules", type=pathlib.Path)
    asked = options.parse_args()
    sys.stdout.write(scaled(asked.rules.read_text(), asked.factor))


if __name__ == "__main__":
    main()
