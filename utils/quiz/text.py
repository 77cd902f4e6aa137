"""Turn the bank's Markdown, and anything else shown, into HTML that cannot run and into plain text.

Raw HTML in Markdown is shown as text. Links keep http, https and relative addresses; images become their description.
Mathematics stays as `$...$` in the static form, where JupyterLab, nbconvert and GitHub typeset it, and becomes MathML
in the live form, where the browser does.
"""

from __future__ import annotations

import html
import re
import textwrap
from functools import lru_cache
from typing import Any

_TAGS = """math mrow mi mn mo ms mtext mspace mfrac msqrt mroot msub msup msubsup munder mover munderover mtable mtr mtd
mstyle mpadded menclose"""
_ATTRIBUTES = """display
displaystyle scriptlevel stretchy fence form separator lspace rspace width height depth mathvariant
linethickness columnalign accent accentunder movablelimits largeop symmetric minsize maxsize"""
MATHML_TAGS = frozenset(_TAGS.split())
MATHML_ATTRIBUTES = frozenset(_ATTRIBUTES.split())
# commands with which MathJax would make links, styles or macros
_ACTIVE = re.compile(r"\\(?:href|style|class|cssId|require|data|unicode|def|let|newcommand|renewcommand|html\w*|url)\b")


def to_html(markdown: str, live: bool = False) -> str:
    """Render Markdown as block HTML; `live=True` typesets mathematics as MathML."""
    return calm(str(_renderer("mathml" if live else "$")(textwrap.dedent(markdown).strip())).strip())


def to_tex_html(markdown: str) -> str:
    """Render Markdown as block HTML with mathematics as `\\(...\\)`, as Anki and Moodle want it."""
    return calm(str(_renderer("tex")(textwrap.dedent(markdown).strip())).strip())


def calm(rendered: str) -> str:
    """Break, outside of code, every TeX command with which MathJax would act on the page (links, styles, macros).

    MathJax looks for `$` in whatever text stands on a page, also where the Markdown has no mathematics.
    """
    parts = re.split(r"(<(?:code|pre)>.*?</(?:code|pre)>)", rendered, flags=re.S)
    parts[::2] = [_ACTIVE.sub(lambda found: "\\\u200b" + found[0][1:], part) for part in parts[::2]]
    return "".join(parts)


def inline(markdown: str, live: bool = False) -> str:
    """Render Markdown that must stay within a line (a label, a summary): paragraphs lose their `<p>`."""
    rendered = to_html(markdown, live)
    return re.sub(r"^<p>(.*?)</p>\s*", r"\1", rendered, count=1, flags=re.S) if rendered.startswith("<p>") else rendered


def to_plain(markdown: str) -> str:
    """Return Markdown as readable plain text: it already is, but for its margins."""
    return textwrap.dedent(markdown).strip()


def spoken(markdown: str) -> str:
    """Return Markdown without its marks, for the live region."""
    return re.sub(r"[`*$]", "", " ".join(markdown.split())).rstrip(".")


def escape(value: Any) -> str:
    """Escape text of any origin for HTML, quotes included."""
    return html.escape(str(value), quote=True)


@lru_cache(maxsize=3)
def _renderer(mode: str) -> Any:
    import mistune

    class Renderer(mistune.HTMLRenderer):
        """HTML without raw HTML, without images, and with mathematics."""

        def heading(self, text: str, level: int, **attrs: Any) -> str:
            return f"<p><strong>{text}</strong></p>\n"

        def image(self, text: str, url: str, title: str | None = None) -> str:
            return f"<em>{text}</em>"

        def link(self, text: str, url: str, title: str | None = None) -> str:
            if re.match(r"(https?://|[\w./#-]+$)", url) and not url.startswith("//"):
                return f'<a href="{escape(url)}" rel="noopener noreferrer">{text}</a>'
            return text

        def block_code(self, code: str, info: str | None = None) -> str:
            return f"<pre><code>{escape(code.rstrip())}</code></pre>\n"

        def inline_math(self, text: str) -> str:
            if mode == "mathml":
                return mathml(text)
            return f"\\({escape(text)}\\)" if mode == "tex" else f"${escape(text)}$"

        def block_math(self, text: str) -> str:
            if mode == "mathml":
                return f"<p>{mathml(text, block=True)}</p>\n"
            return f"<p>\\[{escape(text)}\\]</p>\n" if mode == "tex" else f"<p>$${escape(text)}$$</p>\n"

    return mistune.create_markdown(renderer=Renderer(escape=True), plugins=["math", "table"])


def mathml(source: str, block: bool = False) -> str:
    """Return a formula as MathML made of known elements and attributes only, or as escaped source where that fails.

    latex2mathml passes tags inside `\\text` and addresses of `\\href` through: its result is rebuilt, never trusted.
    """
    from xml.etree import ElementTree

    try:
        from latex2mathml.converter import convert

        tree = ElementTree.fromstring(convert(source, display="block" if block else "inline"))
        return _rebuild(tree)
    except Exception:  # whatever a formula does to the converter, its source is readable
        return f"<code>{escape(source)}</code>"


def _rebuild(node: Any) -> str:
    tag = node.tag.rsplit("}", 1)[-1]
    if tag not in MATHML_TAGS:
        raise ValueError(f"{tag} is no MathML")
    attributes = "".join(f' {k}="{escape(v)}"' for k, v in node.attrib.items() if k in MATHML_ATTRIBUTES)
    inner = escape(node.text or "") + "".join(_rebuild(child) + escape(child.tail or "") for child in node)
    return f"<{tag}{attributes}>{inner}</{tag}>"


def show_value(value: Any, limit: int = 2000) -> str:
    """Return any Python value as text that is the same on every run and machine.

    Floats are rounded to six digits, containers written out, tensors and arrays shown by their own `tolist` (no import
    of torch or numpy), sets sorted, memory addresses dropped, long text cut.
    """
    text = _value(value, 0)
    return text if len(text) <= limit else f"{text[:limit]} ... ({len(text) - limit} more characters)"


def _value(value: Any, depth: int) -> str:
    if depth > 8:
        return "..."
    if isinstance(value, str):
        return value if depth == 0 else repr(value)
    if isinstance(value, bool | int | None.__class__):
        return str(value)
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{_value(k, depth + 1)}: {_value(v, depth + 1)}" for k, v in value.items()) + "}"
    if isinstance(value, set | frozenset):
        return "{" + ", ".join(sorted(_value(v, depth + 1) for v in value)) + "}" if value else "{}"
    if isinstance(value, list | tuple):
        inner = ", ".join(_value(v, depth + 1) for v in value)
        if isinstance(value, list):
            return f"[{inner}]"
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    return _foreign(value, depth)


def _foreign(value: Any, depth: int) -> str:
    count = getattr(value, "numel", None) or getattr(value, "size", None)
    try:
        size = count() if callable(count) else count
        if hasattr(value, "tolist") and isinstance(size, int) and size <= 400:
            return _value(value.tolist(), depth + 1)
        text = repr(value)
    except Exception as error:  # a foreign object may do anything when asked
        return f"a {type(value).__name__} that cannot be shown ({type(error).__name__})"
    return re.sub(r" at 0x[0-9a-fA-F]+", "", text)
