"""Open a notebook in a real JupyterLab, run all its cells, and write pictures of it: what a learner sees.

python -m tests.browser.look notebooks/00_start_here.ipynb --out /tmp/pictures [--dark]
"""

import argparse
import sys
import tempfile
from pathlib import Path

from tests.browser.lab import browser, server


def main() -> int:
    """Run the command line; the exit status is 1 if a cell failed."""
    parser = argparse.ArgumentParser(prog="python -m tests.browser.look", description=__doc__.splitlines()[0])
    parser.add_argument("notebook", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    parser.add_argument("--dark", action="store_true", help="dark theme")
    parser.add_argument("--no-run", action="store_true", help="do not run the cells; show the outputs in the file")
    parser.add_argument("--timeout", type=float, default=300, help="seconds for the whole notebook (300)")
    options = parser.parse_args()
    failure = ""
    with (
        tempfile.TemporaryDirectory(prefix="look-", ignore_cleanup_errors=True) as folder,
        server(Path(folder)) as running,
        browser(running) as lab,
    ):
        notebook = lab.open(options.notebook.resolve(), outputs=options.no_run)
        notebook.theme("dark" if options.dark else "light")
        try:
            if not options.no_run:
                notebook.run_all(options.timeout)
        except AssertionError as error:
            failure = f"failed: {error}"
        pictures = notebook.screenshots(options.out, f"{options.notebook.stem}_")
        lab.close_all()
    print("\n".join(str(picture) for picture in pictures))
    print(failure or f"{len(pictures)} pictures; every cell ran" + "".join(f"\n{p}" for p in notebook.problems))
    return bool(failure)


if __name__ == "__main__":
    sys.exit(main())
