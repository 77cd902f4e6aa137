"""Carry a screen to the browser and presses back: an anywidget with the form without a kernel beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anywidget
import traitlets

from utils.quiz.screens import Screen

_HERE = Path(__file__).parent


class QuizWidget(anywidget.AnyWidget):
    """One output. `view` goes to the browser; `draft`, typed but not yet checked, comes back and survives a reload."""

    _esm = (_HERE / "widget.js").read_text(encoding="utf-8")
    _css = (_HERE / "widget.css").read_text(encoding="utf-8")
    view = traitlets.Dict().tag(sync=True)
    draft = traitlets.Dict().tag(sync=True)

    def __init__(self, screen: Screen, html: str, text: str) -> None:
        self._screen, self._html, self._text = screen, html, text
        super().__init__(view=screen.view(), draft={})
        screen.changed = self.refresh
        self.on_msg(self._receive)

    def refresh(self) -> None:
        """Send the screen's view again."""
        self.view = self._screen.view()

    def _receive(self, _: Any, content: Any, buffers: Any) -> None:
        if not isinstance(content, dict) or not isinstance(content.get("do"), str):
            return
        values = content.get("values")
        ms = content.get("ms")
        self._screen.act(
            content["do"],
            values if isinstance(values, dict) else {},
            ms if isinstance(ms, int) and not isinstance(ms, bool) and 0 <= ms < 10**9 else None,
        )
        self.refresh()
        if self._screen.download:
            name, data = self._screen.download
            self._screen.download = None
            self.send({"name": name, "download": data})

    def _repr_mimebundle_(self, **kwargs: Any) -> tuple[dict, dict]:
        found = super()._repr_mimebundle_(**kwargs)
        data, metadata = found if isinstance(found, tuple) else (found or {}, {})
        return {**data, "text/html": self._html, "text/plain": self._text}, metadata
