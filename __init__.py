"""LLM-GAN: a language model reads the prompt, a conditional GAN draws it, its discriminator scores it.

ComfyUI imports this folder as a custom-node pack and asks for `comfy_entrypoint`; Python imports it as the package
`llm_gan`, whose library lives in `llm_gan.models`. Nothing is imported before either is used, so that the pack adds
nothing to ComfyUI's start.
"""

WEB_DIRECTORY = "./web"


async def comfy_entrypoint():
    from .nodes import LLMGANExtension

    return LLMGANExtension()
