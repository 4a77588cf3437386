"""How often `rope_core.diagnose` is right: a table per code, against an oracle in numpy.

`python -m benchmarks.diagnose` draws all parts. `--codes wrong_base --cases 20` draws one code, and
`--show 5` prints cases that are answered wrongly.
"""

import argparse
import random
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any

import numpy as np
import torch

from benchmarks.table import print_header, print_machine, print_row
from rope_core.config import AttentionConfig
from rope_core.diagnosis.diagnose import diagnose
from tests.diagnosis_oracle import attention_cases, cases
from tests.diagnosis_oracle.judge import judge
from tests.diagnosis_oracle.mistakes import ROTATION
from tests.diagnosis_oracle.presets import all_layers

COLUMNS = ("part", "cases", "right", "tie", "wrong", "percent", "median ms", "slowest ms")
ALL = [*ROTATION, *attention_cases.ATTENTION]
AnyCase = Any


@dataclass
class Part:
    """What came out of the cases of one code, or of one kind."""

    name: str
    verdicts: Counter[str] = field(default_factory=Counter)
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)

    def add(self, case: AnyCase, verdict: str, seconds: float) -> None:
        """Count a case."""
        known = verdict in ("right", "tie")
        self.verdicts[verdict if known else "wrong"] += 1
        self.seconds.append(seconds)
        if not known:
            self.wrong.append(f"{dict(case.truth)} in {case.description}: {verdict}")

    def row(self) -> list[object]:
        """Return the cells of the table."""
        total = self.verdicts.total()
        right, tie, wrong = (self.verdicts[name] for name in ("right", "tie", "wrong"))
        percent = 100.0 * (right + tie) / total if total else 100.0
        times = sorted(1e3 * seconds for seconds in self.seconds) or [0.0]
        return [self.name, total, right, tie, wrong, percent, times[len(times) // 2], times[-1]]


def tensor(x: Any) -> Any:
    """Return an array of numpy as a tensor, with bfloat16 of ml_dtypes; anything else as it is."""
    if not isinstance(x, np.ndarray):
        return x
    x = np.ascontiguousarray(x)
    if x.dtype.name == "bfloat16":
        return torch.from_numpy(x.view(np.int16)).view(torch.bfloat16)
    return torch.from_numpy(x)


def diagnosis_of(case: AnyCase) -> Any:
    """Return what `diagnose` says of a case."""
    arguments = {name: tensor(x) for name, x in case.arguments.items()}
    if "attention" in arguments:
        arguments["attention"] = AttentionConfig(**arguments["attention"])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return diagnose(case.layer.given, **arguments)


def run(name: str, drawn: Iterator[AnyCase], verdict: Callable[[AnyCase, Any], str]) -> Part:
    """Diagnose cases, and judge each."""
    part = Part(name)
    for case in drawn:
        started = time.perf_counter()
        try:
            diagnosis = diagnosis_of(case)
            seconds = time.perf_counter() - started
            said = verdict(case, diagnosis)
        except Exception:
            seconds = time.perf_counter() - started
            said = "raises " + traceback.format_exc(limit=-2).replace("\n", " | ")
        part.add(case, said, seconds)
    return part


def unexplained(case: AnyCase, diagnosis: Any) -> str:
    """Judge a case that no mistake explains."""
    return "right" if diagnosis.verdict == "unexplained" else str(diagnosis)[:300]


def repeated(count: int, make: Callable[[], AnyCase | None]) -> Iterator[AnyCase]:
    """Return up to `count` cases; fewer if `make` finds none."""
    for _ in range(count):
        case = make()
        if case is None:
            return
        yield case


def parts(options: argparse.Namespace) -> Iterator[Part]:
    """Diagnose the cases of each part."""
    of_ropes = [kind for kind in options.kinds if kind != "attention"]
    draw = cases.Draw(kinds=of_ropes or ("rotation",), extra=options.extra)
    if options.dtypes:
        draw = replace(draw, dtypes=options.dtypes)
    if options.big:
        layers = [layer for layer in all_layers() if layer.rope.head_dim == 128]
        draw = replace(draw, tokens=(2048,), heads=(32,), rows=(1,), layers=layers, extra=0.0)
    rng = random.Random(f"{options.seed} rest")
    if of_ropes:
        for code in (code for code in options.codes if code in ROTATION):
            rng = random.Random(f"{options.seed} {code}")
            single = partial(cases.single_case, draw, code, rng)
            yield run(code, repeated(options.cases, single), judge)
        if options.pairs:
            pairs = repeated(options.pairs, lambda: cases.pair_case(draw, rng))
            yield run("two mistakes", pairs, judge)
    if "attention" in options.kinds:
        yield from attention_parts(options, draw)
    if not of_ropes:
        return
    if options.right:
        right = repeated(options.right, lambda: cases.right_case(draw, rng))
        yield run("right numbers", right, judge)
    if options.strange:
        strange = repeated(options.strange, lambda: cases.strange_case(draw, rng))
        yield run("no known mistake", strange, unexplained)


def attention_parts(options: argparse.Namespace, draw: cases.Draw) -> Iterator[Part]:
    """Diagnose the cases of attention."""
    for code in (code for code in options.codes if code in attention_cases.CODES):
        rng = random.Random(f"{options.seed} {code}")
        single = partial(attention_cases.some_attention_case, draw, [code], rng)
        yield run(f"attention: {code}", repeated(options.cases, single), judge)
    rng = random.Random(f"{options.seed} attention")
    if options.pairs:
        pairs = repeated(options.pairs // 4, lambda: attention_cases.attention_pair(draw, rng))
        yield run("attention: two mistakes", pairs, judge)
    if options.right:
        right = partial(attention_cases.some_attention_case, draw, [], rng)
        yield run("attention: right numbers", repeated(options.right // 4, right), judge)


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--codes", nargs="*", help="single mistakes; all by default")
    parser.add_argument("--cases", type=int, default=40, help="of each code")
    parser.add_argument("--pairs", type=int, help="cases with two mistakes; 2000 by default")
    parser.add_argument("--right", type=int, help="cases without mistake; 5000 by default")
    parser.add_argument("--strange", type=int, help="cases no mistake explains; 1000 by default")
    parser.add_argument("--seed", default="0")
    parser.add_argument("--kinds", nargs="*", default=[*cases.Draw().kinds, "attention"])
    parser.add_argument("--dtypes", nargs="*")
    parser.add_argument("--extra", type=float, default=0.25, help="share of ropes of no preset")
    parser.add_argument("--big", action="store_true", help="2,048 tokens x 32 heads x 128")
    parser.add_argument("--show", type=int, default=0, help="wrong answers to print of each part")
    options = parser.parse_args(arguments)
    chosen = (options.codes, options.pairs, options.right, options.strange)
    if all(part is None for part in chosen):
        options.codes, options.pairs, options.right, options.strange = ALL, 2000, 5000, 1000
    options.codes = ALL if options.codes == [] else options.codes or []
    return options


def main(arguments: Sequence[str] | None = None) -> None:
    """Print the table."""
    options = read_options(arguments)
    print_machine()
    print_header(COLUMNS)
    for part in parts(options):
        print_row(part.row())
        for line in part.wrong[: options.show]:
            print(line, flush=True)


if __name__ == "__main__":
    main()
