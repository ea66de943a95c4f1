"""ComfyUI's face of LLM-GAN: each node declares a schema and hands its work to `models`.

`schema` is what nodes are declared with, `comfyui` all that is asked of ComfyUI, `conditioning` the way to and from its
CONDITIONING; `language`, `gan`, `pictures`, `latents`, `training` and `published` hold the nodes.
"""

from comfy_api.latest import ComfyExtension, io

from . import comfyui
from .gan import DiscriminatorScore, Generate, LoadGAN, SaveGAN
from .language import LoadLLM, PromptEncoder
from .latents import (
    Average,
    Interpolate,
    JoinLatents,
    LoadLatent,
    MixStyles,
    Paint,
    Pick,
    SaveLatent,
    SeedExplorer,
    Sliders,
    TravelPrompts,
    Vary,
)
from .pictures import Enlarge, ImageToLatent, Restore, Restyle
from .published import ConvertGAN
from .training import Dataset, Train


class LLMGANExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        comfyui.register_model_folders()
        return [
            LoadLLM,
            PromptEncoder,
            LoadGAN,
            Generate,
            DiscriminatorScore,
            SaveGAN,
            ImageToLatent,
            Restore,
            Restyle,
            Enlarge,
            MixStyles,
            Interpolate,
            TravelPrompts,
            Average,
            JoinLatents,
            Pick,
            Vary,
            Paint,
            Sliders,
            SeedExplorer,
            SaveLatent,
            LoadLatent,
            Dataset,
            Train,
            ConvertGAN,
        ]
