"""`python -m utils.quiz lint [bank ...]`: check the question bank."""

from __future__ import annotations

import argparse
import sys

from utils.quiz import bank as banks
from utils.quiz.bank import BankError


def lint(names: list[str]) -> int:
    """Print faults and warnings of the banks named, or of all; return 1 where there are faults."""
    from utils.quiz import lint as rules

    faults = 0
    for name in names or banks.names():
        try:
            wrong, look = rules.lint(name)
            bank = banks.load(name)
        except BankError as error:
            print(error)
            faults += 1
            continue
        for line in wrong:
            print(f"fault    {line}")
        for line in look:
            print(f"look     {line}")
        kinds: dict[str, int] = {}
        for item in bank.items:
            kinds[item.type] = kinds.get(item.type, 0) + 1
        counts = ", ".join(f"{count} {kind}" for kind, count in kinds.items())
        print(f"{name}: {len(bank.items)} items ({counts}), {len(wrong)} faults")
        faults += len(wrong)
    return 1 if faults else 0


def main(arguments: list[str] | None = None) -> int:
    """Run the command line."""
    parser = argparse.ArgumentParser(prog="python -m utils.quiz", description="Tools for the question bank.")
    commands = parser.add_subparsers(dest="command", required=True)
    check = commands.add_parser("lint", help="check banks against schema and lints")
    check.add_argument("banks", nargs="*", help="names of banks; all where none is given")
    options = parser.parse_args(arguments)
    return lint(options.banks)


if __name__ == "__main__":
    sys.exit(main())
