"""Judge HTML: which elements and attributes are in it, and whether any of them could run."""

import re
from html.parser import HTMLParser

from utils.quiz.text import MATHML_ATTRIBUTES, MATHML_TAGS

_TAGS = "p strong em code pre ul ol li br table thead tbody tr th td a div span details summary caption hr"
TAGS = {*_TAGS.split(), "blockquote", "del"} | MATHML_TAGS
ATTRIBUTES = {"href", "rel", "class", "scope", "start", "aria-hidden", "open"} | MATHML_ATTRIBUTES

HOSTILE = [
    "<script>alert(1)</script>",
    "<img src=x onerror=alert(1)>",
    '"><svg onload=alert(1)>',
    "[click](javascript:alert(1))",
    "[click](  JaVaScRiPt:alert(1))",
    "[click](data:text/html,<script>alert(1)</script>)",
    '![picture](javascript:alert(1) "onerror=alert(1)")',
    "<javascript:alert(1)>",
    "$\\text{<img src=x onerror=alert(1)>}$",
    "$\\href{javascript:alert(1)}{x}$",
    "$$\\style{background:url(javascript:alert(1))}{x}$$",
    "$\\text{<script/>}$",
    "```html\n<script>alert(1)</script>\n```",
    '```"><script>alert(1)</script>\ncode\n```',
    "</summary></details><script>alert(1)</script>",
    "</pre><iframe src=javascript:alert(1)>",
    "&lt;script&gt;alert(1)&lt;/script&gt;",
    "<details open ontoggle=alert(1)>",
    "| a | <b onclick=alert(1)> |\n|---|---|\n| <script> | 2 |",
    "x' onmouseover='alert(1)",
    "\u202e<script>\u0000alert(1)</script>",
]


class Judge(HTMLParser):
    """Collect what is neither on the list of elements nor on that of attributes."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.bad: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in TAGS:
            self.bad.append(f"<{tag}>")
        for name, value in attrs:
            if name not in ATTRIBUTES or name.startswith("on"):
                self.bad.append(f"<{tag} {name}>")
            if name == "href" and not re.match(r"https?://|[\w./#-]+$", value or ""):
                self.bad.append(f"href {value}")

    def handle_comment(self, data: str) -> None:
        self.bad.append("comment")

    def handle_decl(self, decl: str) -> None:
        self.bad.append("declaration")

    def unknown_decl(self, data: str) -> None:
        self.bad.append("declaration")


def faults(html: str) -> list[str]:
    """Return what in this HTML is not known to be harmless."""
    judge = Judge()
    judge.feed(html)
    judge.close()
    # MathJax reads the text of the static form: commands that make links or styles must not reach it outside of code
    text = re.sub(r"<code>.*?</code>|<pre>.*?</pre>", "", html, flags=re.S)
    return judge.bad + re.findall(r"\$[^$]*\\(?:href|style|class|require)\b", text)
