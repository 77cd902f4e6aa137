"""A real JupyterLab in a real browser, for tests and for authors who want to look.

    with server(folder) as lab_server, browser(lab_server) as lab:
        notebook = lab.open("notebooks/00_start_here.ipynb")
        notebook.run_all()

JupyterLab gets a HOME and settings of its own and works on copies, so that nothing of the user's is read or changed.
"""

import contextlib
import itertools
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import nbformat
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

ROOT = Path(__file__).resolve().parents[2]
TOKEN = "course"
CHROMIUM_NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome", "msedge")
CHROMIUM_PATHS = (
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    "C:/Program Files/Google/Chrome/Application/chrome.exe",
)


def find_chromium() -> str:
    """Return the path of a Chromium or Chrome. Raise RuntimeError that says how to get one."""
    found = [shutil.which(name) for name in (os.environ.get("CHROMIUM", ""), *CHROMIUM_NAMES) if name]
    found += [path for path in CHROMIUM_PATHS if Path(path).exists()]
    for path in found:
        if path:
            return path
    raise RuntimeError(
        "The browser tests need Chromium or Chrome, and none is on PATH. Debian and Ubuntu: apt-get install chromium; "
        "macOS: brew install --cask chromium; or set CHROMIUM to the path of one."
    )


@dataclass
class Server:
    """A running JupyterLab: its address, the folder it shows, and where its kernels keep the learner's progress."""

    address: str
    folder: Path
    course_home: Path
    settings: Path

    def request(self, path: str, method: str = "GET") -> bytes:
        """Return the answer of the server's own interface to `method` on `path`."""
        request = urllib.request.Request(
            f"{self.address}/{path}", method=method, headers={"Authorization": f"token {TOKEN}"}
        )
        with urllib.request.urlopen(request, timeout=30) as answer:
            return answer.read()

    def end_sessions(self) -> None:
        """Shut down every kernel."""
        for session in json.loads(self.request("api/sessions")):
            with contextlib.suppress(urllib.error.HTTPError):
                self.request(f"api/sessions/{session['id']}", "DELETE")


@contextlib.contextmanager
def server(folder: Path) -> Iterator[Server]:
    """Start JupyterLab on a copy of the course inside `folder`; stop it and its kernels at the end."""
    course = folder / "course"
    for name in ("notebooks", "exercises", "solutions"):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, course / name, ignore=shutil.ignore_patterns(".*"))
    news = folder / "settings/@jupyterlab/apputils-extension/notification.jupyterlab-settings"
    news.parent.mkdir(parents=True)
    news.write_text(json.dumps({"fetchNews": "false", "checkForUpdates": False}))
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    places = {
        "HOME": folder / "home",
        "COURSE_HOME": folder / "progress",
        "IPYTHONDIR": folder / "ipython",
        "JUPYTERLAB_SETTINGS_DIR": folder / "settings",
        "JUPYTERLAB_WORKSPACES_DIR": folder / "workspaces",
        "JUPYTER_CONFIG_DIR": folder / "config",
        "JUPYTER_DATA_DIR": folder / "data",
        "JUPYTER_RUNTIME_DIR": folder / "runtime",
    }
    for place in places.values():
        place.mkdir(exist_ok=True)
    environment = {k: v for k, v in os.environ.items() if k != "PYTEST_CURRENT_TEST"}
    environment |= {name: str(place) for name, place in places.items()}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root"]
    command += ["--ServerApp.ip=127.0.0.1", f"--ServerApp.port={port}", "--ServerApp.port_retries=0"]
    command += [f"--ServerApp.root_dir={course}", f"--IdentityProvider.token={TOKEN}"]
    command += ["--LabApp.extension_manager=readonly", "--LabApp.expose_app_in_browser=True"]
    log = folder / "jupyter.log"
    with log.open("w") as stream:
        process = subprocess.Popen(command, env=environment, stdout=stream, stderr=subprocess.STDOUT)
    running = Server(f"http://127.0.0.1:{port}", course, places["COURSE_HOME"], places["JUPYTERLAB_SETTINGS_DIR"])
    try:
        _wait_until_it_answers(running, process, log)
        yield running
        running.end_sessions()
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()


def _wait_until_it_answers(running: Server, process: subprocess.Popen, log: Path) -> None:
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            running.request("api/status")
            return
        time.sleep(0.2)
    raise RuntimeError(f"JupyterLab did not start. Its log ends:\n{log.read_text()[-3000:]}")


@contextlib.contextmanager
def browser(running: Server) -> Iterator["Lab"]:
    """Start Chromium for `running`; close it at the end."""
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-dev-shm-usage"]
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=find_chromium(), args=flags)
        try:
            yield Lab(running, chromium)
        finally:
            chromium.close()


class Lab:
    """JupyterLab as seen in the browser."""

    def __init__(self, running: Server, chromium: Browser) -> None:
        self.server, self.context = running, chromium.new_context()  # one context: its cache saves seconds a page
        self._numbers = itertools.count(1)

    def open(
        self,
        notebook: str | Path | nbformat.NotebookNode,
        *,
        outputs: bool = False,
        kernel: bool = True,
        width: int = 1280,
        height: int = 900,
    ) -> "Notebook":
        """Open a copy of `notebook` in a tab of its own, kernel started; return it.

        `notebook` is a path (relative to the repository, or any other) or a notebook made by the test. Its outputs are
        cleared, as in a learner's copy, unless `outputs`. The copy lies in the folder of the same name as the original.
        With `kernel=False` do not wait for a kernel.
        """
        path = self._copy(notebook, outputs)
        page = self.context.new_page()
        page.set_viewport_size({"width": width, "height": height})
        workspace = f"w{os.getpid()}-{next(self._numbers)}"
        page.goto(f"{self.server.address}/lab/workspaces/{workspace}/tree/{path}?reset&token={TOKEN}")
        page.wait_for_selector("#jupyterlab-splash", state="detached", timeout=60_000)
        expect(page.locator(".jp-NotebookPanel:visible")).to_be_visible(timeout=60_000)
        # The indicator in the toolbar says idle before there is a kernel; only the session itself knows.
        page.evaluate("async () => { await jupyterapp.shell.currentWidget.context.ready; }")
        opened = Notebook(page, self.server)
        if kernel:
            opened.wait_for_kernel()
        return opened

    def _copy(self, notebook: str | Path | nbformat.NotebookNode, outputs: bool) -> str:
        if isinstance(notebook, (str, Path)):
            source = ROOT / notebook
            content, name, folder = nbformat.read(source, as_version=4), source.name, source.parent.name
        else:
            content, name, folder = notebook, f"made_{next(self._numbers)}.ipynb", "notebooks"
        content.metadata.setdefault("kernelspec", {"display_name": "Python 3 (ipykernel)", "name": "python3"})
        for cell in content.cells:
            if cell.cell_type == "code" and not outputs:
                cell.outputs, cell.execution_count = [], None
        target = self.server.folder / folder / name
        target.parent.mkdir(exist_ok=True)
        nbformat.write(content, target)
        return f"{folder}/{name}"

    def close_all(self) -> None:
        """Close every tab, shut down every kernel, and forget a changed theme."""
        for page in self.context.pages:
            page.close()
        self.server.end_sessions()
        (self.server.settings / "@jupyterlab/apputils-extension/themes.jupyterlab-settings").unlink(missing_ok=True)


class Notebook:
    """One notebook open in JupyterLab. `page` is Playwright's page, `panel` the notebook in it."""

    def __init__(self, page: Page, running: Server) -> None:
        self.page, self.server = page, running
        self.panel: Locator = page.locator(".jp-NotebookPanel:visible")
        self.problems: list[str] = []
        page.on("pageerror", lambda error: self.problems.append(str(error)))

    def wait_for_kernel(self, timeout: float = 60) -> None:
        """Wait until the notebook has a kernel that answered."""
        self._wait_until(
            """() => { const session = jupyterapp.shell.currentWidget.sessionContext;
            return session.isReady && session.session?.kernel?.status === 'idle'; }""",
            timeout,
            "no kernel",
        )

    def run_all(self, timeout: float = 180) -> None:
        """Run all cells and wait until each has run. Raise AssertionError if one fails or `timeout` (s) passes."""
        self.page.evaluate("() => { void jupyterapp.commands.execute('notebook:run-all-cells'); }")
        self.wait_until_idle(timeout)
        assert not (errors := self.errors()), errors

    def run_cell(self, index: int, timeout: float = 60) -> None:
        """Run the cell at `index` (of all cells, from 0) and wait until it has run; it may fail."""
        self.page.evaluate(
            """index => { const content = jupyterapp.shell.currentWidget.content;
            content.activeCellIndex = index; content.widgets[index].model.executionCount = null;
            void jupyterapp.commands.execute('notebook:run-cell'); }""",
            index,
        )
        self._wait_for(f"cell => cell.index !== {index} || cell.ran", timeout)

    def wait_until_idle(self, timeout: float = 60) -> None:
        """Wait until every code cell has run, or one has failed."""
        self._wait_for("cell => cell.ran", timeout)

    def _wait_for(self, condition: str, timeout: float) -> None:
        done = f"""() => {{
            const panel = jupyterapp.shell.currentWidget;
            const cells = panel.content.widgets.map((w, index) => ({{w, index}}))
                .filter(c => c.w.model.type === 'code' && c.w.model.sharedModel.getSource().trim())
                .map(c => ({{index: c.index, ran: c.w.model.executionCount !== null
                    && c.w.model.executionState !== 'running',
                    failed: c.w.model.outputs.toJSON().some(o => o.output_type === 'error')
                        && !(c.w.model.getMetadata('tags') || []).includes('raises-exception')}}));
            const idle = panel.sessionContext.session?.kernel?.status === 'idle';
            return idle && (cells.some(c => c.failed) || cells.every({condition}));
        }}"""
        self._wait_until(done, timeout, "not every cell has run")

    def _wait_until(self, condition: str, timeout: float, complaint: str) -> None:
        """Wait until the JavaScript function `condition` is true. Raise AssertionError after `timeout` (s)."""
        deadline = time.monotonic() + timeout
        while not self.page.evaluate(condition):
            dialogs = self.page.locator(".jp-Dialog").all_inner_texts()
            assert not dialogs, f"JupyterLab asks: {dialogs}"
            assert time.monotonic() < deadline, f"{complaint} after {timeout} s; cells not run: {self._not_run()}"
            self.page.wait_for_timeout(100)

    def _not_run(self) -> list[int]:
        return [i for i, cell in enumerate(self._cells()) if cell["count"] is None and cell["code"]]

    def _cells(self) -> list[dict]:
        return self.page.evaluate(
            """() => jupyterapp.shell.currentWidget.content.widgets.map(w => ({
                code: w.model.type === 'code' && w.model.sharedModel.getSource().trim() !== '',
                source: w.model.sharedModel.getSource(),
                tags: w.model.getMetadata('tags') || [],
                count: w.model.type === 'code' ? w.model.executionCount : null,
                outputs: w.model.type === 'code' ? w.model.outputs.toJSON() : []}))"""
        )

    def cell_count(self) -> int:
        """Return how many cells the notebook has: no key may add or cut one."""
        return len(self._cells())

    def sources(self) -> list[str]:
        """Return the source of every cell."""
        return [cell["source"] for cell in self._cells()]

    def outputs(self, index: int) -> list[dict]:
        """Return the outputs of the cell at `index`, as a notebook file would hold them."""
        return self._cells()[index]["outputs"]

    def errors(self) -> list[str]:
        """Return the errors among the outputs, except where a cell is tagged raises-exception."""
        return [
            f"cell {index}: {output['ename']}: {output['evalue']}"
            for index, cell in enumerate(self._cells())
            for output in cell["outputs"]
            if output["output_type"] == "error" and "raises-exception" not in cell["tags"]
        ]

    def cell(self, index: int) -> Locator:
        """Return the cell at `index` on the page, scrolled into view."""
        self.page.evaluate(
            """async index => { const content = jupyterapp.shell.currentWidget.content;
            await content.scrollToItem(index, 'start'); }""",
            index,
        )
        return self.panel.locator(f".jp-Cell[data-windowed-list-index='{index}']")

    def set_source(self, index: int, source: str) -> None:
        """Replace the source of the cell at `index`, as a learner who types it."""
        self.page.evaluate(
            "([i, s]) => jupyterapp.shell.currentWidget.content.widgets[i].model.sharedModel.setSource(s)",
            [index, source],
        )

    def wait_for_text(self, text: str, timeout: float = 30) -> Locator:
        """Wait until `text` stands in an output on the page; return that output."""
        output = self.panel.locator(".jp-OutputArea-output").filter(has_text=text).first
        expect(output).to_be_attached(timeout=timeout * 1000)
        return output

    def restart_and_run_all(self, timeout: float = 180) -> None:
        """Restart the kernel, run all cells, and wait."""
        self.page.evaluate("() => { void jupyterapp.commands.execute('notebook:restart-run-all'); }")
        self.page.locator(".jp-Dialog .jp-mod-accept").click()
        self.page.wait_for_function(
            "() => jupyterapp.shell.currentWidget.content.widgets.every(w => !w.model.executionCount)"
        )
        self.wait_until_idle(timeout)
        assert not (errors := self.errors()), errors

    def save(self) -> Path:
        """Save the notebook and return the path of its file."""
        self.page.evaluate("async () => { await jupyterapp.commands.execute('docmanager:save'); }")
        return self.server.folder / self.page.evaluate("() => jupyterapp.shell.currentWidget.context.path")

    def theme(self, name: str) -> None:
        """Change JupyterLab's theme to `name`: "light" or "dark"."""
        theme = f"JupyterLab {name.capitalize()}"
        self.page.evaluate(
            "async theme => { await jupyterapp.commands.execute('apputils:change-theme', {theme}); }", theme
        )
        expect(self.page.locator("body")).to_have_attribute("data-jp-theme-name", theme)

    def screenshot(self, path: str | Path) -> None:
        """Write what is on the screen to `path`."""
        self.page.screenshot(path=path)

    def screenshots(self, folder: str | Path, prefix: str = "") -> list[Path]:
        """Write the whole notebook to `folder`, one picture a screenful, from top to bottom; return their paths."""
        Path(folder).mkdir(parents=True, exist_ok=True)
        # The sidebar only takes room, and a notebook that is scrolled by code needs all its cells in the page.
        self.page.evaluate("async () => { await jupyterapp.commands.execute('application:toggle-left-area'); }")
        scroller = self.panel.locator(".jp-WindowedPanel-outer")
        paths, top = [], 0
        while True:
            scroller.evaluate("(element, top) => element.scrollTo(0, top)", top)
            self.page.wait_for_timeout(400)
            path = Path(folder) / f"{prefix}{len(paths):02}.png"
            self.panel.screenshot(path=path)
            paths.append(path)
            # Below the last cell JupyterLab leaves half a screen empty; the bottom of that cell is where to stop.
            below, height = scroller.evaluate(
                """element => [[...element.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect().bottom
                - element.getBoundingClientRect().bottom, element.clientHeight]"""
            )
            if below <= 0 or len(paths) >= 80:
                return paths
            top += height - 60

    def close(self) -> None:
        """Close the tab."""
        self.page.close()
