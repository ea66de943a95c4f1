"""A real ComfyUI with this pack in it, and its page in headless Chromium, for the tests, the thumbnails and the pictures in the README.

ComfyUI is the one in $COMFYUI_DIR, or the one whose custom_nodes holds the pack, run by its own Python ($COMFYUI_PYTHON,
or the venv inside it). It keeps everything in a temporary base directory, so no user's files are read or written, except
that converted language models are kept where the library keeps them. It reaches no network.
"""

import io
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.parse
import urllib.request
from itertools import combinations
from pathlib import Path
from types import TracebackType
from typing import Any

from PIL import Image

from llm_gan.models.language.catalogue import default_home

PACK = Path(__file__).absolute().parent.parent
WORKFLOWS = sorted((PACK / "workflows").glob("*.json"))
PACK_NAME = "LLM-GAN"

# Requests to the server must not go through a proxy of the environment.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


def workflow(name: str) -> dict[str, Any]:
    """A shipped workflow, in the UI format."""
    return json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))


class Missing(Exception):
    """What is needed is not installed; the message says how to get it."""


def find_comfyui() -> Path:
    """The folder of the ComfyUI to use. Raises Missing if none is known, FileNotFoundError if $COMFYUI_DIR is none."""
    if given := os.environ.get("COMFYUI_DIR"):
        folder = Path(given).expanduser().absolute()
        if not (folder / "main.py").is_file():
            raise FileNotFoundError(f"COMFYUI_DIR is {given}, but there is no main.py: set it to the folder of a ComfyUI.")
        return folder
    if PACK.parent.name == "custom_nodes" and (PACK.parent.parent / "main.py").is_file():
        return PACK.parent.parent
    raise Missing("no ComfyUI: set COMFYUI_DIR to the folder of one, or put the pack into its custom_nodes")


def _python(comfyui: Path) -> str:
    if given := os.environ.get("COMFYUI_PYTHON"):
        return given
    names = [f"{venv}/{python}" for venv in (".venv", "venv") for python in ("bin/python", "Scripts/python.exe")]
    return next((str(comfyui / name) for name in names if (comfyui / name).exists()), sys.executable)


class Server:
    """ComfyUI on the CPU with this pack as its only custom nodes; a context manager that stops it."""

    def __init__(self, *arguments: str, timeout: float = 300):
        """`arguments` go to ComfyUI's command line. Waits until the server answers."""
        comfyui = find_comfyui()
        self._base = tempfile.TemporaryDirectory(prefix="llm-gan-comfyui-", ignore_cleanup_errors=True)
        base = self.base = Path(self._base.name)
        for folder in ("custom_nodes", "input", "output", "temp", "user/default", "models"):
            (base / folder).mkdir(parents=True)
        (base / "custom_nodes" / PACK_NAME).symlink_to(PACK, target_is_directory=True)
        default_home().mkdir(parents=True, exist_ok=True)
        (base / "models" / "LLM").symlink_to(default_home(), target_is_directory=True)
        # Else the page greets a new user with a dialog in front of the graph.
        settings = {"Comfy.TutorialCompleted": True, "Comfy.Release.ShowNotifications": False}
        (base / "user" / "default" / "comfy.settings.json").write_text(json.dumps(settings))

        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        self._log = base / "comfyui.log"
        command = [_python(comfyui), "-u", "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(port),
                   "--base-directory", str(base), "--database-url", "sqlite:///:memory:", "--disable-api-nodes", *arguments]
        closed = "http://127.0.0.1:9"
        offline = {name: closed for name in ("http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY")}
        environment = os.environ | offline | {"HF_HUB_OFFLINE": "1", "no_proxy": "127.0.0.1", "NO_PROXY": "127.0.0.1"}
        environment.pop("PYTHONPATH", None)
        with self._log.open("wb") as log:
            self._process = subprocess.Popen(command, cwd=comfyui, env=environment, stdout=log, stderr=subprocess.STDOUT)
        try:
            self._wait_until_ready(time.monotonic() + timeout)
        except BaseException:
            self.stop()
            raise

    def _wait_until_ready(self, deadline: float) -> None:
        while True:
            try:
                self.get("system_stats")
                return
            except OSError:
                pass
            if self._process.poll() is not None:
                raise RuntimeError(f"ComfyUI ended with {self._process.returncode} at its start:\n{self.tail()}")
            if time.monotonic() > deadline:
                raise TimeoutError(f"ComfyUI did not answer in time:\n{self.tail()}")
            time.sleep(0.3)

    def stop(self) -> None:
        self._process.terminate()
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._base.cleanup()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    @property
    def log(self) -> str:
        return self._log.read_text(errors="replace")

    def tail(self, lines: int = 40) -> str:
        return "\n".join(self.log.splitlines()[-lines:])

    def get(self, path: str, **query: str) -> bytes:
        with _open(f"{self.url}/{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return answer.read()

    def get_json(self, path: str) -> Any:
        return json.loads(self.get(path))

    def post(self, path: str, body: dict[str, Any]) -> Any:
        request = urllib.request.Request(f"{self.url}/{path}", json.dumps(body).encode(), {"Content-Type": "application/json"})
        try:
            with _open(request, timeout=30) as answer:
                text = answer.read()
        except urllib.error.HTTPError as error:
            raise RuntimeError(f"ComfyUI refused {path}: {error.read().decode(errors='replace')}") from None
        return json.loads(text) if text else None

    def queue(self, graph: dict[str, Any], client: str = "") -> str:
        """Queue an API graph -> its id. RuntimeError if ComfyUI finds any node of it wrong."""
        answer = self.post("prompt", {"prompt": graph, "client_id": client})
        if answer["node_errors"]:
            raise RuntimeError(f"ComfyUI refused a node: {answer['node_errors']}")
        return answer["prompt_id"]

    def wait(self, prompt_id: str, timeout: float = 300) -> dict[str, Any]:
        """The history of a queued graph, as soon as it is over, whether or not it went well."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            history = self.get_json(f"history/{prompt_id}")
            if prompt_id in history:
                return history[prompt_id]
            time.sleep(0.1)
        raise TimeoutError(f"The graph was not done in {timeout:.0f} s:\n{self.tail()}")

    def run(self, graph: dict[str, Any], client: str = "", timeout: float = 300) -> dict[str, Any]:
        """Queue an API graph and wait -> its history. RuntimeError with the server's words if it fails."""
        history = self.wait(self.queue(graph, client), timeout)
        if history["status"]["status_str"] != "success":
            raise RuntimeError(f"The graph failed: {history['status']['messages'][-1]}\n{self.tail()}")
        return history

    def images(self, history: dict[str, Any]) -> list[Image.Image]:
        """The pictures that a graph saved or previewed, in order: RGB, or RGBA where they have opacity."""
        outputs = sorted(history["outputs"].items(), key=lambda output: output[0].rjust(9))  # by node, not as they came
        entries = [entry for _, output in outputs for entry in output.get("images", [])]
        pictures = [Image.open(io.BytesIO(self.get("view", **entry))) for entry in entries]
        return [picture if picture.mode == "RGBA" else picture.convert("RGB") for picture in pictures]

    def interrupt(self) -> None:
        self.post("interrupt", {})


def events(history: dict[str, Any], name: str) -> list[dict[str, Any]]:
    """The messages `name` of a graph's history, such as execution_cached."""
    return [message for kind, message in history["status"]["messages"] if kind == name]


class Page:
    """ComfyUI's page of a `Server` in headless Chromium; a context manager that closes it."""

    def __init__(self, server: Server):
        """Raises Missing if there is no Chromium or no playwright."""
        try:
            from playwright.sync_api import TimeoutError as PageTimeout
            from playwright.sync_api import sync_playwright
        except ImportError:
            raise Missing("no playwright: pip install playwright (its own browsers are not needed)") from None
        names = ("chromium", "chromium-browser", "google-chrome", "chrome")
        browser = os.environ.get("CHROMIUM") or next(filter(None, map(shutil.which, names)), None)
        if browser is None:
            raise Missing("no Chromium: install it, or set CHROMIUM to the browser's command")
        self._timeout = PageTimeout
        self._playwright = sync_playwright().start()
        try:
            self._browser = self._playwright.chromium.launch(executable_path=browser, args=[
                "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
            self.page = self._browser.new_page(viewport={"width": 1600, "height": 900})
            self.page.set_default_timeout(180_000)
            self.page.goto(server.url, wait_until="domcontentloaded")
            # The page opens a graph of its own at the end of its start, in place of any that was loaded before.
            ready = "window.app?.graph?.nodes?.length && window.app.extensionManager?.workflow?.activeWorkflow"
            self.page.wait_for_function(ready)
        except BaseException:
            self._playwright.stop()
            raise

    def __enter__(self) -> "Page":
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._browser.close()
        self._playwright.stop()

    @property
    def client(self) -> str:
        """The page's client id: what is queued under it is shown in the page."""
        return self.page.evaluate("window.app.api.clientId")

    def load(self, workflow: dict[str, Any]) -> dict[str, Any]:
        """Load a workflow in the UI format, as opening the file does, and convert it -> the API graph, as Run queues it."""
        self.page.evaluate("workflow => window.app.loadGraphData(workflow)", workflow)
        return self.page.evaluate("async () => (await window.app.graphToPrompt()).output")

    def open_template(self, name: str) -> None:
        """Open a workflow of the pack from the template browser, by clicking as a user does."""
        self.page.evaluate("() => { window.app.extensionManager.command.execute('Comfy.BrowseTemplates') }")
        pack, template = (self.page.get_by_role("dialog").get_by_text(text, exact=True).first for text in (PACK_NAME, name))
        # Not `click`: it waits for animations, which take long where pages are drawn without a GPU. Once more because the
        # browser goes back to all templates when their list has arrived, if that is after the pack was chosen.
        for _ in range(10):
            pack.dispatch_event("click")
            try:
                template.dispatch_event("click", timeout=10_000)
                return
            except self._timeout:
                pass
        raise TimeoutError(f"The template browser does not show {name}.")

    def nodes(self) -> dict[str, dict[str, Any]]:
        """The nodes of the loaded graph by id: type, bounds (left, top, right, bottom), and whether it is drawn as faulty."""
        return self.page.evaluate("""() => Object.fromEntries(window.app.graph.nodes.map(node => [node.id, {
            type: node.type,
            bounds: [node.pos[0], node.pos[1] - window.LiteGraph.NODE_TITLE_HEIGHT,
                     node.pos[0] + node.size[0], node.pos[1] + node.size[1]],
            faulty: Boolean(node.has_errors) || !(node.type in window.LiteGraph.registered_node_types),
        }]))""")

    def overlaps(self) -> list[tuple[str, str]]:
        """The ids of nodes of the loaded graph that cover each other."""
        bounds = {name: node["bounds"] for name, node in self.nodes().items()}
        return [
            (a, b)
            for (a, (left, top, right, bottom)), (b, other) in combinations(bounds.items(), 2)
            if left < other[2] and other[0] < right and top < other[3] and other[1] < bottom
        ]
