"""Take the pictures of nodes that README.md shows, and of a graph at work, in ComfyUI's page.

    COMFYUI_DIR=/path/to/ComfyUI python tests/make_node_pictures.py [NODE ...]

Names of nodes restrict it to those; `graph` is the graph. Needs Chromium and playwright, as the tests with ComfyUI do.
"""

import io
import re
import sys

from comfyui import PACK, Page, Server, workflow
from PIL import Image

GRAPH = "best_of_many"
DOCS = PACK / "docs"

ALONE = """name => {
    const {app, LiteGraph} = window, node = LiteGraph.createNode(name)
    app.graph.clear()
    app.graph.add(node)
    node.pos = [0, 0]
    return node.size
}"""
# Menus lie over the canvas around its middle, where there is room for one node, and a graph may be fitted to it.
VIEW = """([left, top, width, height, scale]) => {
    const {app} = window, {ds, canvas} = app.canvas, {x, y} = canvas.getBoundingClientRect()
    ds.scale = scale
    ds.offset = [(innerWidth - width) / 2 / scale - left, (innerHeight - height) / 2 / scale - top]
    app.canvas.draw(true, true)
    return {x: x + (innerWidth - width) / 2, y: y + (innerHeight - height) / 2, width, height}
}"""
MARGIN, TITLE = 14, 50  # pixels around what is shown; a node's bar with its name, and the pack's name above it


def node_picture(page: Page, name: str) -> None:
    width, height = page.page.evaluate(ALONE, name)
    view = [-MARGIN, -MARGIN - TITLE, width + 2 * MARGIN, height + TITLE + 2 * MARGIN, 1]
    page.page.screenshot(path=DOCS / f"{name}.png", clip=page.page.evaluate(VIEW, view))


def graph_picture(server: Server, page: Page) -> None:
    server.run(page.load(workflow(GRAPH)), page.client)
    page.page.evaluate("window.app.extensionManager.setting.set('Comfy.Minimap.Visible', false)")
    page.page.wait_for_timeout(5_000)  # for the pictures to arrive
    groups = page.page.evaluate("window.app.graph.groups.map(({pos, size}) => [...pos, pos[0] + size[0], pos[1] + size[1]])")
    lefts, tops, rights, bottoms = zip(*groups, *(node["bounds"] for node in page.nodes().values()))
    left, top = min(lefts) - MARGIN, min(tops) - MARGIN
    width, height = max(rights) + MARGIN - left, max(bottoms) + MARGIN - top
    scale = min(1.0, 1_400 / width, 700 / height)
    shown = page.page.screenshot(clip=page.page.evaluate(VIEW, [left, top, width * scale, height * scale, scale]))
    Image.open(io.BytesIO(shown)).convert("RGB").save(DOCS / "graph.jpg", quality=85)


def main(names: list[str]) -> None:
    shown = re.findall(r"docs/(LLMGAN_\w+)\.png", (PACK / "README.md").read_text("utf-8"))
    with Server() as server, Page(server) as page:
        for name in names or [*shown, "graph"]:
            graph_picture(server, page) if name == "graph" else node_picture(page, name)


if __name__ == "__main__":
    main(sys.argv[1:])
