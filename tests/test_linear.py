"""Products of a few rows: exact or not taken, and never stale."""

import pytest
import torch

from llm_gan.models import linear
from llm_gan.models.derived import Derived
from llm_gan.models.generator import GeneratorConfig
from llm_gan.models.layout import Layout
from llm_gan.models.linear import FEW, Linear, product, without_tf32
from llm_gan.models.memory import ConceptMemory

fbgemm = pytest.mark.skipif(torch.backends.quantized.engine not in ("x86", "fbgemm"), reason="this processor has no FBGEMM")


def half(*shape, seed=0):
    """Numbers that fp16 holds."""
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).half().float()


def frozen(bias=True):
    layer = Linear(48, 32, bias=bias).requires_grad_(False)
    layer.weight.copy_(half(32, 48))
    return layer


@pytest.fixture
def taken(monkeypatch):
    """A list that grows with every product that FBGEMM computes."""
    calls = []

    def counting(*weights):
        fast = product(*weights)
        return None if fast is None else lambda x: calls.append(len(x)) or fast(x)

    monkeypatch.setattr(linear, "product", counting)
    return calls


@fbgemm
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 48), (5, 48), (2, 7, 48)])
def test_a_few_rows_are_multiplied_exactly(shape, bias):
    layer, x = frozen(bias), torch.randn(shape, generator=torch.Generator().manual_seed(1))
    exact = torch.nn.functional.linear(x.double(), layer.weight.double(), None if layer.bias is None else layer.bias.double())
    assert (product(layer.weight, layer.bias)(x) - exact).abs().max() < 1e-5 and (layer(x) - exact).abs().max() < 1e-5


@fbgemm
def test_rows_do_not_depend_on_one_another():
    read, x = product(half(32, 48)), torch.randn(20, 48)
    others = torch.cat([x[:1], 100 * torch.randn(19, 48)])
    assert torch.equal(read(x)[0], read(others)[0])
    # With AVX2 one row or two are summed in another order than more are.
    assert torch.allclose(read(x), torch.cat([read(row[None]) for row in x]), atol=1e-5)


def test_what_fp16_does_not_hold_is_not_taken():
    assert product(torch.full((4, 4), 1 / 3)) is None and product(torch.full((4, 4), 1e6)) is None
    layer = Linear(48, 32).requires_grad_(False)  # random in fp32
    x = torch.randn(3, 48)
    assert torch.equal(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias))


@fbgemm
def test_only_a_few_rows_without_a_gradient_are_taken(taken):
    layer, x = Linear(48, 32), torch.randn(3, 48)
    layer.weight.data.copy_(half(32, 48))
    layer._product = Derived(linear.product)
    layer(x)
    assert not taken  # it may be learning
    layer.requires_grad_(False)
    wanted = x.clone().requires_grad_()
    layer(wanted).sum().backward()
    assert torch.allclose(wanted.grad, layer.weight.sum(0).expand(3, -1)) and not taken
    layer(torch.randn(FEW + 1, 48))
    layer.bfloat16()(x.bfloat16())
    assert not taken
    layer.float()(x)
    with torch.no_grad():
        layer(wanted)
    assert taken == [3, 3]


@fbgemm
def test_changed_weights_are_noticed():
    layer, x = frozen(), torch.randn(3, 48)
    layer(x)
    layer.weight.mul_(2)
    layer.bias.add_(1)
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)
    layer.load_state_dict({"weight": half(32, 48, seed=5), "bias": half(32)})
    assert torch.allclose(layer(x), torch.nn.functional.linear(x, layer.weight, layer.bias), atol=1e-5)


def test_what_is_derived_is_kept_until_its_weights_change():
    made = []
    total = Derived(lambda weight: made.append(1) or weight.sum())
    weight = torch.ones(3)
    assert total(weight) == total(weight) == 3 and len(made) == 1
    weight[0] = 2
    assert total(weight) == 4 and len(made) == 2
    learning = torch.ones(3, requires_grad=True)
    assert total(learning).requires_grad and total(learning) == 3 and len(made) == 4
    with torch.inference_mode():
        assert total(torch.ones(3)) == 3  # counts no versions


def test_what_is_derived_goes_when_its_network_is_moved():
    layer = frozen()
    layer(torch.randn(3, 48))
    assert layer._product._known is not None
    layer.to("meta")
    assert layer._product._known is None


def test_autocast_rounds_no_choice_and_no_place():
    memory = ConceptMemory(GeneratorConfig(32, (16, 16, 16), concepts=40, pooled_dim=24, text_dim=16, sketch_resolution=8))
    pooled, z = torch.randn(2, 1, 24), torch.randn(2, 64)
    layout = Layout.whole(pooled[:, 0])._replace(boxes=torch.rand(2, 1, 3) / 2 + 0.25)
    pictures = torch.randn(2, 3, 32, 32)

    def results():
        concepts = memory(pooled)
        return concepts, memory.choose(concepts, z), layout.place(pictures[:, None], 64), layout.cut(pictures, 16)

    plain = results()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(torch.equal(*pair) for pair in zip(plain, results()))


@fbgemm
def test_a_memory_gives_the_same_sketch_either_way():
    memory = ConceptMemory(GeneratorConfig(32, (16, 16, 16), concepts=40, pooled_dim=24, text_dim=16, sketch_resolution=8))
    for parameter in memory.parameters():
        parameter.data = half(*parameter.shape)
    concepts, looks = torch.rand(2, 40).softmax(1), torch.rand(2, 5).softmax(1)
    plain = memory.sketch(concepts, looks)
    assert plain.requires_grad
    memory.requires_grad_(False)
    assert torch.allclose(memory.sketch(concepts, looks), plain, atol=1e-5) and memory._read._known is not None


def test_fp32_is_multiplied_as_such_by_the_switches_of_before(monkeypatch):
    class Backends:  # those of a torch that has no others
        class cudnn:
            allow_tf32 = True

    asked = ["medium"]
    monkeypatch.setattr(torch, "backends", Backends)
    monkeypatch.setattr(torch, "get_float32_matmul_precision", lambda: asked[-1])
    monkeypatch.setattr(torch, "set_float32_matmul_precision", asked.append)
    with without_tf32():
        assert asked[-1] == "highest" and not Backends.cudnn.allow_tf32
    assert asked[-1] == "medium" and Backends.cudnn.allow_tf32


@pytest.mark.skipif(not hasattr(torch.backends.cudnn, "conv"), reason="this torch has one switch for all of cuDNN")
def test_fp32_is_multiplied_as_such_whatever_a_process_asks_for():
    backends = torch.backends
    places = backends.cudnn.conv, backends.cuda.matmul, backends.mkldnn.conv, backends.mkldnn.matmul
    x, before = torch.randn(256, 256, generator=torch.Generator().manual_seed(0)), [own.fp32_precision for own in places]
    exact = x @ x
    try:
        torch.set_float32_matmul_precision("medium")  # a CPU that can rounds to bf16 then
        backends.cudnn.conv.fp32_precision = "ieee"  # after which torch does not tell the switch of before
        asked = [own.fp32_precision for own in places]
        with without_tf32():
            assert all(own.fp32_precision == "ieee" for own in places) and torch.equal(x @ x, exact)
        assert [own.fp32_precision for own in places] == asked != before
    finally:
        torch.set_float32_matmul_precision("highest")
        for own, value in zip(places, before):
            own.fp32_precision = value
