"""Draw the figures of the lessons: `python -m docs.lessons`."""

from docs.lessons import FOLDER, figures

FOLDER.mkdir(parents=True, exist_ok=True)
for name, contents in figures().items():
    (FOLDER / name).write_text(contents)
