"""Outputs of a cell, by rank, once, equal ones folded."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from utils.ranks.explain import folded, names


def show(results: Mapping[int, Mapping[str, Any]]) -> None:
    """Print and display what the ranks printed and showed."""
    from IPython.display import display

    texts: dict[int, str] = {}
    rich: dict[int, str] = {}
    for r, result in results.items():
        shown = result.get("shown", [])
        text = result.get("text", "") + "".join(s.get("text/plain", "") + "\n" for s in shown if len(s) == 1)
        if text:
            texts[r] = text.rstrip("\n")
        if bundles := [s for s in shown if len(s) > 1]:
            rich[r] = json.dumps(bundles, default=repr)
    for ranks, text in folded(texts):
        who = names(ranks)
        print(f"{who}: {text}" if "\n" not in text else f"{who}:\n{text}")
    for ranks, bundles in folded(rich):
        print(f"{names(ranks)}:")
        for bundle in json.loads(bundles):
            display(bundle, raw=True)
