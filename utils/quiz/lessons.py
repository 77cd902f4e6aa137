"""Where a lesson is: its notebook, title and a link that works from the notebook that shows it."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from utils.quiz.text import escape

FOLDERS = ("notebooks", "exercises", "solutions")


@dataclass(frozen=True)
class Lesson:
    """A lesson as found on disk. `href` is relative to the running notebook, "" where there is no such file."""

    name: str
    number: str
    title: str
    href: str

    @property
    def words(self) -> str:
        """The lesson as plain text: "03 Can four workers train one model as if they were one?"."""
        return f"{self.number} {self.title}".strip()

    @property
    def link(self) -> str:
        """The lesson as HTML, linked where its notebook exists."""
        return f'<a href="{escape(self.href)}">{escape(self.words)}</a>' if self.href else escape(self.words)


def lesson(name: str, folder: str = "notebooks") -> Lesson:
    """Return the lesson with this name (without number), as seen from the working folder, where notebooks run."""
    here = Path.cwd()
    for place, prefix in ((here, ""), (here.parent / folder, f"../{folder}/"), (here / folder, f"{folder}/")):
        if place.name != folder:
            continue
        found = sorted(place.glob(f"[0-9]*_{name}.ipynb"))
        if found:
            path = found[0]
            return Lesson(name, path.name.split("_", 1)[0], _title(path, path.stat().st_mtime_ns), prefix + path.name)
    return Lesson(name, "", name.replace("_", " ").capitalize(), "")


def all_lessons() -> list[str]:
    """Return the names of the lessons, in the order of their numbers."""
    here = Path.cwd()
    for place in (here, here.parent / "notebooks", here / "notebooks"):
        if place.name == "notebooks":
            found = sorted(path.name for path in place.glob("[0-9]*_*.ipynb"))
            if found:
                return [name.split("_", 1)[1].removesuffix(".ipynb") for name in found]
    return []


@lru_cache(maxsize=256)
def _title(path: Path, _: int) -> str:
    """Return the first heading of a notebook, or its name where it has none."""
    fallback = path.stem.split("_", 1)[-1].replace("_", " ").capitalize()
    try:
        cells = json.loads(path.read_text(encoding="utf-8"))["cells"]
        for cell in cells:
            source = cell["source"]
            text = source if isinstance(source, str) else "".join(source)
            if cell["cell_type"] == "markdown" and (match := re.search(r"^#\s+(.+)$", text, flags=re.M)):
                return re.sub(r"[`*]|^\d+[.:]?\s+", "", match[1]).strip()
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return fallback
