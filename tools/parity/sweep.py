"""Compare the reading of config.json files with all configuration classes of transformers.

python -m tools.parity.sweep [--seed N] [--changes N] [--seconds S] [--only MODEL_TYPE ...]
"""

import argparse
import inspect
import json
import logging
import re
import sys
import time
import traceback
import warnings
from collections import Counter
from importlib.resources import files
from random import Random
from typing import Any

from rope_core.hf.families import families, families_without_rope
from tools.parity.classes import Entry, all_entries
from tools.parity.comparison import Difference, Result, compare, plain
from tools.parity.config_changes import change, keys_of

ROTARY = re.compile(r"rotary|rope_parameters|RopeEmb", re.IGNORECASE)


def main() -> int:
    """Run the sweep; return the number of differences without a reason, at most 1."""
    arguments = _arguments()
    logging.disable(logging.CRITICAL)
    warnings.simplefilter("ignore")
    known = known_differences()
    entries = [
        entry for entry in all_entries() if not arguments.only or entry.model_type in arguments.only
    ]
    swept = [entry for entry in entries if _is_swept(entry)]
    end = time.monotonic() + arguments.seconds if arguments.seconds else None
    counts: Counter[str] = Counter()
    found: dict[tuple[str, str], list[Difference]] = {}
    explained: Counter[str] = Counter()

    def check(entry: Entry, config: dict[str, Any]) -> None:
        result = _compare(entry, config)
        counts[result.status] += 1
        for difference in result.differences:
            why = reason(difference, known)
            if why is None:
                found.setdefault((difference.model_type, difference.kind), []).append(difference)
            else:
                explained[f"{difference.model_type}, {difference.kind}: {why}"] += 1

    for entry in swept if not arguments.random_only else []:
        for config in _fixed(entry):
            check(entry, config)
    for number in range(arguments.changes):
        if end is not None and time.monotonic() > end:
            break
        for entry in swept:
            random = Random(f"{arguments.seed} {number} {entry.config_class.__name__}")
            changed = change(entry, random)
            check(entry, changed)
            if number % 4 == 0:
                check(entry, _written(entry, changed))
    _report(entries, swept, counts, explained, found, arguments.verbose)
    return int(bool(found))


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--changes", type=int, default=4, help="changed configs of each class")
    parser.add_argument("--seconds", type=float, help="make no more changes after this time")
    parser.add_argument("--only", nargs="*", default=[], help="model types")
    parser.add_argument("--random-only", action="store_true")
    parser.add_argument("--verbose", action="store_true", help="print configs of differences")
    return parser.parse_args()


def _is_swept(entry: Entry) -> bool:
    if entry.model_type in families():
        return True
    without_rope = families_without_rope().get(entry.model_type)
    return without_rope is not None and bool(without_rope.layer_types or without_rope.layer_cycle)


def _fixed(entry: Entry) -> list[dict[str, Any]]:
    """Return the default config, short ones, and what the class writes of the default one."""
    configs: list[dict[str, Any]] = [{}]
    if "num_hidden_layers" in keys_of(entry):
        configs += [{"num_hidden_layers": depth} for depth in (1, 2, 3, 5, 8, 12)]
    return [*configs, _written(entry, {})]


def _written(entry: Entry, config: dict[str, Any]) -> dict[str, Any]:
    """Return the config as the class writes it; unchanged if the class refuses it."""
    try:
        return plain(entry.config_class.from_dict(json.loads(json.dumps(config))))
    except Exception:
        return config


def _compare(entry: Entry, config: dict[str, Any]) -> Result:
    try:
        return compare(entry, config)
    except Exception as error:  # a crash is a difference
        last = traceback.extract_tb(error.__traceback__)[-1]
        where = f"{error!r} in {last.filename.rsplit('/', 1)[-1]}:{last.lineno}"
        crash = Difference(entry.model_type, "crash", None, "none", where, json.dumps(config))
        return Result("crash", (crash,))


def known_differences() -> list[dict[str, Any]]:
    """Return the differences on purpose, each with its reason."""
    known: list[dict[str, Any]] = json.loads(
        (files("tools.parity") / "differences.json").read_text()
    )
    return known


def reason(difference: Difference, known: list[dict[str, Any]]) -> str | None:
    """Return why a difference is on purpose, None if it is not."""
    for row in known:
        if (
            (difference.model_type in row["model_types"] or row["model_types"] == ["*"])
            and difference.kind == row["kind"]
            and re.search(row.get("got", ""), difference.got)
            and re.search(row.get("config", ""), difference.config)
        ):
            return str(row["reason"])
    return None


def _report(
    entries: list[Entry],
    swept: list[Entry],
    counts: Counter[str],
    explained: Counter[str],
    found: dict[tuple[str, str], list[Difference]],
    verbose: bool,
) -> None:
    rest = [entry for entry in entries if entry not in swept and entry.model_type]
    with_code = [e for e in rest if e.module and ROTARY.search(inspect.getsource(e.module))]
    print(f"{len(entries)} configuration classes: {len(swept)} swept, {len(with_code)} others of")
    print("modules with rotary code (nested or composite):")
    print("  " + " ".join(sorted(entry.model_type for entry in with_code)))
    print(f"without rotary code: {len(rest) - len(with_code)}")
    print("configs by what was compared:")
    for status, number in sorted(counts.items()):
        print(f"  {status:12} {number}")
    print("differences on purpose:")
    for reason, number in sorted(explained.items()):
        print(f"  {number:5}  {reason}")
    for differences in found.values():
        print(f"  {len(differences):5}  {differences[0]}")
        if verbose:
            print(f"         {differences[0].config[:1500]}")
    print(
        f"{sum(map(len, found.values()))} unexplained differences of {sum(counts.values())} configs"
    )


if __name__ == "__main__":
    sys.exit(main())
