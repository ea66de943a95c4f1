"""The pack in a real ComfyUI: the workflows as shipped, opened and converted by the real page, queued, their pictures judged.

    COMFYUI_DIR=/path/to/ComfyUI python -m pytest tests/test_comfyui.py

Without a ComfyUI all of it is skipped; without Chromium and playwright, what needs the page.
"""

import copy
import re
import time
from io import BytesIO
from itertools import pairwise
from statistics import fmean, median
from typing import Any, NamedTuple

import numpy as np
import published
import pytest
import torch
from comfyui import PACK_NAME, WORKFLOWS, Missing, Page, Server, events, workflow
from PIL import Image

from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.gan import GAN
from llm_gan.models.language.model import LanguageModel

NAMES = ["best_of_many", "expand_prompt", "live_canvas", "prompt_list", "scenes", "text_to_image", "text_to_image_chinese"]
EDITING = ["inpaint", "restore_photo", "restyle"]  # a picture first, which is then changed
DESIGNING = {  # pictures and animations
    "colours": 16, "draft_then_refine": 1, "latent_walk": 1, "prompt_travel": 1, "sliders": 9, "stickers": 8,
    "style_mix_grid": 20, "vary_and_pick": 32,
}  # fmt: skip
TRAINING = "train_on_my_folder"
ALL = sorted([*NAMES, *EDITING, *DESIGNING, TRAINING])
NODES = [
    "LoadLLM", "PromptEncoder", "LoadGAN", "Generator", "DiscriminatorScore", "SaveGAN", "ImageToLatent", "Restore", "Restyle",
    "MixStyles", "Interpolate", "TravelPrompts", "Average", "JoinLatents", "Pick", "Vary", "Paint", "Sliders", "SeedExplorer",
    "SaveLatent", "LoadLatent", "Dataset", "Train", "Convert", "Enlarge",
]  # fmt: skip
PICTURES = {
    "best_of_many": 8, "expand_prompt": 4, "live_canvas": 1, "prompt_list": 16, "scenes": 16, "text_to_image": 4,
    "text_to_image_chinese": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def server():
    try:
        running = Server()
    except Missing as what:
        pytest.skip(str(what))
    with running:
        yield running


@pytest.fixture(scope="module")
def page(server):
    try:
        opened = Page(server)
    except Missing as what:
        pytest.skip(str(what))
    with opened:
        yield opened


@pytest.fixture(scope="module")
def full_precision_server(server):
    with Server("--force-fp32") as running:
        yield running


@pytest.fixture(scope="module")
def judge():
    """The bundled GAN and the language model that it was trained with."""
    gan = load_gan(DEFAULT_GAN)
    return gan, LanguageModel.load(gan.recipe.model, dtype=torch.float32)


def only(graph: dict[str, Any], node: str) -> dict[str, Any]:
    """The inputs of the one `node` of an API graph."""
    (inputs,) = [entry["inputs"] for entry in graph.values() if entry["class_type"] == f"LLMGAN_{node}"]
    return inputs


def pixels(pictures: list[Image.Image]) -> np.ndarray:
    """[N,H,W,3] in 0..1."""
    return np.stack([np.asarray(picture, np.float32) / 255 for picture in pictures])


class Drawn(NamedTuple):
    graph: dict[str, Any]
    pictures: np.ndarray  # [N,H,W,3]
    prompts: list[str]  # what was read


_drawn: dict[str, Drawn] = {}


def drawn(name: str, server: Server, page: Page) -> Drawn:
    """What a shipped workflow draws when it is opened in the page and queued; once for all tests."""
    if name not in _drawn:
        graph = page.load(workflow(name))
        history = server.run(graph, page.client)
        encoder = only(graph, "PromptEncoder")
        text = [line for output in history["outputs"].values() for line in output.get("text", [])]
        prompts = text if encoder["expand"] else encoder["prompt"].splitlines()
        _drawn[name] = Drawn(graph, pixels(server.images(history)), prompts)
    return _drawn[name]


# ------------------------------------------------------------------------------------------------------ the pack


def test_every_node_explains_itself(server):
    known = server.get_json("object_info")
    assert sorted(name for name in known if name.startswith("LLMGAN_")) == sorted(f"LLMGAN_{name}" for name in NODES)
    for node in (known[f"LLMGAN_{name}"] for name in NODES):
        assert node["category"].startswith("LLM-GAN") and node["display_name"] and len(node["description"]) > 20, node["name"]
        for kind in ("required", "optional"):
            for name, spec in node["input"].get(kind, {}).items():
                assert len(spec) > 1 and spec[1].get("tooltip"), f"{node['name']}.{name} has no tooltip"
        assert all(node["output_tooltips"]), f"an output of {node['name']} has no tooltip"


def test_the_template_browser_has_every_workflow(server):
    assert [file.stem for file in WORKFLOWS] == ALL
    assert sorted(server.get_json("workflow_templates")[PACK_NAME]) == ALL
    for name in ALL:
        assert server.get_json(f"api/workflow_templates/{PACK_NAME}/{name}.json") == workflow(name)
        thumbnail = Image.open(BytesIO(server.get(f"api/workflow_templates/{PACK_NAME}/{name}.jpg")))
        assert thumbnail.format == "JPEG" and np.asarray(thumbnail).std() > 10


def test_a_workflow_opens_from_the_template_browser(page):
    page.load(workflow("text_to_image"))
    page.open_template("text_to_image_chinese")
    shown = "prompt => window.app.graph.nodes.some(node => node.widgets?.[0]?.value === prompt)"
    page.page.wait_for_function(shown, arg="一张包含猫和狗的图像")
    saved = {node["type"] for node in workflow("text_to_image_chinese")["nodes"]}
    assert {node["type"] for node in page.nodes().values()} == saved


# -------------------------------------------------------------------------------------------------- the workflows


@pytest.mark.parametrize("name", ALL)
def test_a_workflow_opens_as_it_was_saved(server, page, name):
    graph, saved = page.load(workflow(name)), workflow(name)
    known = server.get_json("object_info")
    assert not page.overlaps()
    for id, node in page.nodes().items():
        assert not node["faulty"], f"{node['type']} is drawn as faulty"
        if id in graph:
            missing = known[node["type"]]["input"]["required"].keys() - graph[id]["inputs"].keys()
            assert not missing, f"{node['type']} has nothing at {missing}"
    for node in saved["nodes"]:
        if node["type"].startswith("LLMGAN_"):
            values = [value for value in graph[str(node["id"])]["inputs"].values() if not isinstance(value, list)]
            assert values == [value for value in node["widgets_values"] if value not in ("fixed", "randomize")]


def test_a_workflow_of_the_first_version_still_draws(server, page):
    """As it was saved before the generator had `transparent` and `pair`, and the bundled GAN its present name."""
    saved = workflow("text_to_image")
    (load,) = [node for node in saved["nodes"] if node["type"] == "LLMGAN_LoadGAN"]
    load["widgets_values"][0] = "icons-64 (bundled)"
    (generator,) = [node for node in saved["nodes"] if node["type"] == "LLMGAN_Generator"]
    generator["inputs"] = [entry for entry in generator["inputs"] if entry["name"] not in ("transparent", "pair")]
    del generator["widgets_values"][-2:]
    graph = page.load(saved)
    assert np.array_equal(pixels(server.images(server.run(graph))), drawn("text_to_image", server, page).pictures)


def test_a_picture_may_have_no_background(server, page):
    graph = copy.deepcopy(drawn("text_to_image", server, page).graph)
    only(graph, "Generator")["transparent"] = True
    pictures = server.images(server.run(graph))
    assert all(picture.mode == "RGBA" for picture in pictures)
    opacity = np.stack([np.asarray(picture)[..., 3] for picture in pictures])
    assert opacity.min() < 20 and opacity.max() > 235


@pytest.mark.parametrize("name", NAMES)
def test_a_workflow_draws(server, page, name):
    pictures = drawn(name, server, page).pictures
    assert len(pictures) == PICTURES[name]
    assert all(picture.std() > 0.05 for picture in pictures), "a picture is blank"
    assert page.page.evaluate("!window.app.lastExecutionError && !Object.keys(window.app.lastNodeErrors ?? {}).length")
    assert not any(node["faulty"] for node in page.nodes().values())


@pytest.mark.parametrize("name", NAMES)
def test_pictures_follow_their_prompt(server, page, judge, name):
    own = drawn(name, server, page)
    others = {prompt for other in NAMES for prompt in drawn(other, server, page).prompts} - set(own.prompts)
    pictures = torch.from_numpy(own.pictures).chunk(len(own.prompts))
    matched = fmean(alignment(judge, part, prompt) for part, prompt in zip(pictures, own.prompts, strict=True))
    # The same pictures under each other prompt, and in a list of prompts under each other one of the list as well.
    shuffled = [
        alignment(judge, part, other)
        for part, prompt in zip(pictures, own.prompts, strict=True)
        for other in others | set(own.prompts) - {prompt}
    ]
    assert matched > fmean(shuffled)


def alignment(judge: tuple[GAN, LanguageModel], pictures: torch.Tensor, prompt: str) -> float:
    gan, language = judge
    return gan.score(pictures, language.encode([prompt], gan.recipe)).alignment.mean().item()


@pytest.mark.parametrize("name", EDITING)
def test_a_picture_is_changed(server, page, judge, name):
    """The first pictures come as they are before, the others as they are after; what was lost is nearer to what was drawn."""
    graph = page.load(workflow(name))
    (drawing,) = [id for id, node in graph.items() if node["class_type"] == "LLMGAN_Generator"]
    graph["drawn"] = {"class_type": "ImageScale", "inputs": {
        "image": [drawing, 0], "upscale_method": "lanczos", "width": 256, "height": 256, "crop": "disabled"
    }}  # fmt: skip
    graph["shown"] = {"class_type": "PreviewImage", "inputs": {"images": ["drawn", 0]}}
    outputs = server.run(graph, page.client)["outputs"]
    wanted = pixels(server.images({"outputs": {"shown": outputs.pop("shown")}}))
    before, after = np.split(pixels(server.images({"outputs": outputs})), 2)
    assert before.shape == after.shape == wanted.shape and np.abs(after - before).mean() > 0.01
    if name != "restyle":
        assert np.abs(after - wanted).mean() < np.abs(before - wanted).mean()


@pytest.mark.parametrize("name", DESIGNING)
def test_a_design_is_drawn(server, page, name):
    history = server.run(page.load(workflow(name)), page.client)
    pictures = server.images(history)
    assert len(pictures) == DESIGNING[name] and all(np.asarray(picture).std() > 10 for picture in pictures)
    assert len({picture.tobytes() for picture in pictures}) == len(pictures), "two pictures are the same"


@pytest.mark.parametrize("name", ["latent_walk", "prompt_travel"])
def test_an_animation_has_no_jump(server, page, name):
    graph = page.load(workflow(name))
    (fps,) = [node["inputs"]["fps"] for node in graph.values() if node["class_type"] == "SaveAnimatedWEBP"]
    history = server.run(graph, page.client)
    (entry,) = [entry for output in history["outputs"].values() for entry in output.get("images", [])]
    animation, frames = Image.open(BytesIO(server.get("view", **entry))), []
    for i in range(animation.n_frames):  # equal frames, at a stop, are stored as one that is shown for longer
        animation.seek(i)
        picture = animation.convert("RGB")
        frames += [picture] * round(animation.info["duration"] * fps / 1000)
    frames = pixels(frames)
    steps = np.abs(np.diff(np.concatenate([frames, frames[:1]]), axis=0)).mean((1, 2, 3))
    assert len(frames) == 32 and frames.std(0).mean() > 0.01
    assert steps.max() < np.abs(frames[0] - frames[16]).mean() * 2


def test_the_best_are_kept(server, page, judge):
    best = drawn("best_of_many", server, page)
    graph = copy.deepcopy(best.graph)
    enlarge = only(graph, "Enlarge")
    assert enlarge["images"][1] == 1  # `best`; and now `ranked`, all of them
    enlarge["images"][1] = 0
    ranked = pixels(server.images(server.run(graph)))
    assert len(ranked) == only(graph, "Generator")["batch_size"]
    assert np.array_equal(ranked[:8], best.pictures)
    gan, language = judge
    totals = gan.score(torch.from_numpy(ranked), language.encode(best.prompts, gan.recipe)).total
    # Of pictures that were enlarged and rounded to 8 bits, so that near equals may change places.
    assert totals[:8].mean() > totals[8:].mean()


def test_the_best_of_several_prompts_are_picked_and_drawn_again(server, page):
    graph = copy.deepcopy(drawn("prompt_list", server, page).graph)
    ids = {node["class_type"].removeprefix("LLMGAN_"): id for id, node in graph.items()}
    gan, prompts, drawing = [ids["LoadGAN"], 0], [ids["PromptEncoder"], 0], ids["Generator"]
    graph = {id: graph[id] for id in (ids["LoadLLM"], ids["LoadGAN"], ids["PromptEncoder"], drawing)} | {
        "score": {"class_type": "LLMGAN_DiscriminatorScore", "inputs": {
            "gan": gan, "images": [drawing, 0], "conditioning": prompts, "keep": 3,
        }},
        "pick": {"class_type": "LLMGAN_Pick", "inputs": {
            "latent": [drawing, 1], "places": ["score", 4], "conditioning": prompts,
        }},
        "again": {"class_type": "LLMGAN_Generator", "inputs": {
            "gan": gan, "conditioning": ["pick", 2], "latent": ["pick", 0], "seed": 0, "batch_size": 1, "truncation": 1.0,
        }},
        "101": {"class_type": "PreviewImage", "inputs": {"images": ["score", 1]}},
        "102": {"class_type": "PreviewImage", "inputs": {"images": ["again", 0]}},
        "103": {"class_type": "PreviewImage", "inputs": {"images": ["pick", 1]}},  # of pictures that were not connected
    }  # fmt: skip
    history = server.run(graph)
    best, again = np.split(pixels(server.images(history)), 2)
    assert len(best) == 3 and np.abs(best - again).max() < 3 / 255 and "103" not in history["outputs"]


# ------------------------------------------------------------------------------------------------------- training


@pytest.fixture(scope="module")
def trained(server, page):
    """The training workflow as shipped, but for its length -> its graph and history."""
    graph = page.load(workflow(TRAINING))
    only(graph, "Train")["images"] = 64
    return graph, server.run(graph, page.client, timeout=900)


def test_the_training_workflow_trains_draws_and_scores(server, page, trained):
    graph, history = trained
    plots, pictures = [], []
    for picture in server.images(history):
        (pictures if picture.width == picture.height else plots).append(picture)
    assert len(pictures) == only(graph, "DiscriminatorScore")["keep"] and len(plots) == 1
    assert all(np.asarray(picture).std() > 1 for picture in pictures), "a picture is blank"
    name = only(graph, "Train")["name"]
    assert load_gan(server.base / "models" / "gan" / f"{name}.safetensors").card.images_seen == 64
    assert f"{name}.safetensors" in server.get_json("object_info/LLMGAN_LoadGAN")["LLMGAN_LoadGAN"]["input"]["required"]["gan"][1]["options"]
    assert not any(node["faulty"] for node in page.nodes().values())


def test_cancelling_a_training_keeps_it_and_resume_goes_on(server, trained):
    graph = copy.deepcopy(trained[0])
    settings = only(graph, "Train")
    settings.update(name="cancelled", images=1_000_000)
    queued = server.queue(graph)
    run = server.base / "output" / "llm-gan" / "cancelled"
    written = server.base / "models" / "gan" / "cancelled.safetensors"
    deadline = time.monotonic() + 300
    while not list(run.glob("samples-*.png")) and time.monotonic() < deadline:
        time.sleep(0.2)
    time.sleep(3)  # some steps
    server.interrupt()
    history = server.wait(queued)
    assert events(history, "execution_interrupted")[0]["node_type"] == "LLMGAN_Train"
    done = load_gan(written).card.images_seen
    assert done > 0

    refused = server.wait(server.queue(graph))
    assert "resume" in events(refused, "execution_error")[0]["exception_message"]
    settings.update(images=done + 16, resume=True)
    server.run(graph, timeout=900)
    assert load_gan(written).card.images_seen == done + 16

    # Once it is finished there are no losses to plot, and everything else is as it was.
    server.post("free", {"unload_models": True, "free_memory": True})
    pictures = server.images(server.run(graph, timeout=900))
    assert pictures and all(picture.width == picture.height for picture in pictures)


def test_a_folder_that_is_not_there_is_said_before_any_work(server, trained):
    graph = copy.deepcopy(trained[0])
    only(graph, "Dataset")["folder"] = "no such folder"
    history = server.wait(server.queue(graph))
    assert "There is no folder" in events(history, "execution_error")[0]["exception_message"]


# ------------------------------------------------------------------------------------------------------ published GANs


def test_a_published_gan_is_converted_drawn_with_and_listed(server):
    generator, judge = published.stylegan2(2)
    home = server.base / "models" / "gan"
    home.mkdir(exist_ok=True)
    published.write(home / "pets.pkl", G=None, D=judge, G_ema=generator)
    graph = {
        "1": {"class_type": "LLMGAN_Convert", "inputs": {"file": "pets.pkl", "classes": "cat\ndog", "half": True}},
        "2": {"class_type": "LLMGAN_LoadLLM", "inputs": {"model": "gemma-3-270m", "precision": "auto"}},
        "3": {"class_type": "LLMGAN_PromptEncoder", "inputs": {
            "llm": ["2", 0], "gan": ["1", 0], "prompt": "a cat\na dog", "one_per_line": True, "expand": False, "instruction": "",
            "seed": 0, "temperature": 0.3, "max_tokens": 8,
        }},
        "4": {"class_type": "LLMGAN_Generator", "inputs": {
            "gan": ["1", 0], "conditioning": ["3", 0], "seed": 1, "batch_size": 2, "truncation": 0.8,
        }},
        "5": {"class_type": "LLMGAN_DiscriminatorScore", "inputs": {
            "gan": ["1", 0], "images": ["4", 0], "conditioning": ["3", 0], "keep": 4,
        }},
        "6": {"class_type": "SaveImage", "inputs": {"images": ["5", 0], "filename_prefix": "pets"}},
    }  # fmt: skip
    pictures = server.images(server.run(graph))
    assert [picture.size for picture in pictures] == [(16, 16)] * 4 and len({picture.tobytes() for picture in pictures}) == 4
    graph["1"] = {"class_type": "LLMGAN_LoadGAN", "inputs": {"gan": "pets.safetensors", "precision": "auto"}}
    assert sorted(p.tobytes() for p in server.images(server.run(graph))) == sorted(p.tobytes() for p in pictures)


# -------------------------------------------------------------------------------------- running it again and again


def test_the_second_run_loads_no_model(server, page):
    first = drawn("text_to_image", server, page)
    server.run(first.graph)  # other graphs may have run in between
    before = len(server.log)

    graph = copy.deepcopy(first.graph)
    only(graph, "Generator")["seed"] += 1
    history = server.run(graph)
    kept = {graph[id]["class_type"] for id in events(history, "execution_cached")[0]["nodes"]}
    assert {"LLMGAN_LoadLLM", "LLMGAN_LoadGAN", "LLMGAN_PromptEncoder"} <= kept
    other_seed = pixels(server.images(history))

    only(graph, "PromptEncoder")["prompt"] = "a green apple"
    history = server.run(graph)
    kept = {graph[id]["class_type"] for id in events(history, "execution_cached")[0]["nodes"]}
    assert {"LLMGAN_LoadLLM", "LLMGAN_LoadGAN"} <= kept and "LLMGAN_PromptEncoder" not in kept
    other_prompt = pixels(server.images(history))

    assert not re.search(r"Requested to load|Loading weights", server.log[before:])
    assert not np.array_equal(first.pictures, other_seed) and not np.array_equal(other_seed, other_prompt)


def test_the_live_canvas_reads_only_what_changed(server, page):
    """As a person types. How much of the time passes outside of our nodes is printed (-s), not judged."""
    graph = copy.deepcopy(drawn("live_canvas", server, page).graph)
    server.run(graph, page.client)
    # [milliseconds of the epoch, id of the node that begins or null] of what the server tells the page while it runs.
    page.page.evaluate("""() => {
        window.begun = [];
        window.app.api.addEventListener("executing", event => window.begun.push([Date.now(), event.detail]));
    }""")
    shares = []
    for prompt in ["a red h", "a red heart", "a red heart on", "a red heart on blue"] * 3:
        only(graph, "PromptEncoder")["prompt"] = f"{prompt}{' ' * len(shares)}"  # ComfyUI would answer with what it kept
        page.page.evaluate("window.begun.length = 0")
        queued = 1000 * time.time()
        history = server.run(graph, page.client)
        kept = {graph[id]["class_type"] for id in events(history, "execution_cached")[0]["nodes"]}
        assert {"LLMGAN_LoadLLM", "LLMGAN_LoadGAN"} <= kept
        assert not kept & {"LLMGAN_PromptEncoder", "LLMGAN_Generator", "PreviewImage"}
        page.page.wait_for_function("window.begun.length && window.begun.at(-1)[1] === null")
        begun = page.page.evaluate("window.begun")
        ours = [
            end - start for (start, id), (end, _) in pairwise(begun) if id and graph[id]["class_type"].startswith("LLMGAN_")
        ]
        assert len(ours) == 2  # the prompt is read, and a picture drawn
        shares.append(1 - sum(ours) / (begun[-1][0] - queued))
    print(f"\n{100 * median(shares):.0f} % of a changed prompt's time passes outside of LLM-GAN's nodes")


def test_a_seed_gives_the_same_pictures_again(server, page):
    first = drawn("text_to_image", server, page)
    graph = copy.deepcopy(first.graph)
    only(graph, "Generator")["seed"] += 7
    server.run(graph)
    # ComfyUI would answer with what it kept of the same inputs: one picture more has them drawn anew.
    only(graph, "Generator").update(seed=only(first.graph, "Generator")["seed"], batch_size=5)
    again = pixels(server.images(server.run(graph)))
    assert np.abs(again[:4] - first.pictures).max() <= 1 / 255


def test_cancel_stops_within_a_step(server, page):
    graph = copy.deepcopy(drawn("text_to_image", server, page).graph)
    generator = only(graph, "Generator")
    server.run(graph)
    generator.update(seed=generator["seed"] + 1, batch_size=16)  # as many as a step is on a CPU
    started = time.monotonic()
    server.run(graph)
    step = time.monotonic() - started

    generator["batch_size"] = 4096
    queued = server.queue(graph)
    time.sleep(2 * step)
    assert not server.get_json(f"history/{queued}")
    cancelled = time.monotonic()
    server.interrupt()
    history = server.wait(queued)
    assert time.monotonic() - cancelled < 2 * step + 2
    assert history["status"]["status_str"] == "error" and not history["status"]["completed"]
    assert events(history, "execution_interrupted")[0]["node_type"] == "LLMGAN_Generator"

    generator["batch_size"] = 1
    assert len(server.images(server.run(graph))) == 1


def test_full_precision_can_be_forced(server, page, full_precision_server):
    first = drawn("text_to_image", server, page)
    pictures = pixels(full_precision_server.images(full_precision_server.run(first.graph)))
    assert np.abs(pictures - first.pictures).max() <= 4 / 255


def test_every_start_imports_the_pack(server, full_precision_server):
    for log in (server.log, full_precision_server.log):
        assert "IMPORT FAILED" not in log
        assert len(re.findall(rf"[\d.]+ seconds: .*{PACK_NAME}\s*$", log, re.MULTILINE)) == 1
