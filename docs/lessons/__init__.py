"""Still figures of docs/learn: `python -m docs.lessons` draws them, a test compares them."""

from pathlib import Path

from docs.lessons.circles import lesson_1, lesson_2, lesson_3
from docs.lessons.cubes import lesson_7
from docs.lessons.pairs import lesson_4, lesson_5, lesson_6
from docs.lessons.words import ZH, Words

FOLDER = Path(__file__).parents[1] / "learn" / "figures"
LESSONS = (lesson_1, lesson_2, lesson_3, lesson_4, lesson_5, lesson_6, lesson_7)


def figures() -> dict[str, str]:
    """Return the text of each file."""
    languages: dict[str, Words] = {"": str, ".zh": ZH.__getitem__}
    return {
        f"{lesson.__name__.replace('_', '-')}{suffix}.svg": lesson(words)
        for lesson in LESSONS
        for suffix, words in languages.items()
    }
