"""Tools for the question bank.

python -m utils.quiz lint [BANK ...]                       check banks against schema and lints
python -m utils.quiz export --html|--gift|--anki [--to FILE] [BANK ...]
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from pathlib import Path

from utils.quiz import bank as banks
from utils.quiz.bank import BankError


def lint(names: list[str]) -> int:
    """Print faults, what is worth a look, and counts of the banks named, or of all; return 1 where there are faults."""
    from utils.quiz import lint as rules

    faults = 0
    for name in names or banks.names():
        try:
            wrong, look = rules.lint(name)
        except BankError as error:
            print(error)
            faults += 1
            continue
        for line in wrong:
            print(f"fault    {line}")
        for line in look:
            print(f"look     {line}")
        kinds = Counter(item.type for item in banks.load(name).items)
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{name}: {kinds.total()} items ({counts}), {len(wrong)} faults")
        faults += len(wrong)
    return 1 if faults else 0


def export(kind: str, to: str | None, names: list[str]) -> int:
    """Write the banks named, or all, to a file; return 1 where that fails."""
    from utils.quiz import export as carry

    try:
        chosen = [banks.load(name) for name in names or banks.names()]
        path = Path(to or f"one-model-many-workers.{ {'html': 'html', 'gift': 'gift', 'anki': 'apkg'}[kind] }")
        if kind == "anki":
            carry.anki(chosen, path)
        else:
            path.write_text(carry.html_page(chosen) if kind == "html" else carry.gift(chosen), encoding="utf-8")
    except (BankError, OSError) as error:
        print(error)
        return 1
    print(f"{path}: {len(chosen)} banks")
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.quiz", description="Tools for the question bank.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("lint", help="check banks against schema and lints")
    out = commands.add_parser("export", help="write banks for Anki, for Moodle, or as one page")
    kind = out.add_mutually_exclusive_group(required=True)
    for name, what in (("html", "one page without JavaScript"), ("gift", "Moodle GIFT"), ("anki", "an Anki deck")):
        kind.add_argument(f"--{name}", dest="kind", action="store_const", const=name, help=what)
    out.add_argument("--to", metavar="FILE", help="the file to write")
    for command in (check, out):
        command.add_argument("banks", nargs="*", help="names of banks; all where none is given")
    options = parser.parse_args(arguments)
    if options.command == "lint":
        return lint(options.banks)
    return export(options.kind, options.to, options.banks)


if __name__ == "__main__":
    sys.exit(main())
