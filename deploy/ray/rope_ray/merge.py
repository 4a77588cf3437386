"""Merge the metrics of replicas into one page, each sample with a label `replica`."""

from collections.abc import Iterable


def merge(pages: Iterable[tuple[str, str]]) -> str:
    """Return one page in the text format of Prometheus.

    The comments of a metric (HELP and TYPE) are those of the first replica that has it.

    Args:
        pages: name of each replica and its page.
    """
    comments: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    for replica, page in sorted(pages):
        family = ""
        for line in page.splitlines():
            if line.startswith("#"):
                _, kind, family, *_ = line.split(" ", 3)
                of_family = comments.setdefault(family, [])
                if not any(other.startswith(f"# {kind} ") for other in of_family):
                    of_family.append(line)
            elif line:
                samples.setdefault(family, []).append(_with_label(line, replica))
    return "".join(
        f"{line}\n"
        for family, lines in comments.items()
        for line in lines + samples.get(family, [])
    )


def _with_label(sample: str, replica: str) -> str:
    """Return a line `name{labels} value` or `name value` with one label more."""
    label = f'replica="{replica}"'
    name, brace, rest = sample.partition("{")
    if brace and " " not in name:
        return f"{name}{{{label}{',' if not rest.startswith('}') else ''}{rest}"
    name, _, value = sample.partition(" ")
    return f"{name}{{{label}}} {value}"
