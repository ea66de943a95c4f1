"""Painting things in the colours that a prompt gives them."""

import pytest
import torch

from llm_gan.models import tint
from llm_gan.models.tint import main_colour, recolour

RED = (0.9, 0.28, 0.3)
SIDE = 64


def car(colour=(0.1, 0.4, 0.8)):
    """A shaded body of a colour, a white window, two black wheels, a magenta lamp, on nothing: rgb [1,3,R,R] in -1..1, opacity
    [1,1,R,R], and where the body, the window, the wheels and the lamp are."""
    rgb, opacity = torch.full((3, SIDE, SIDE), 0.5), torch.zeros(1, SIDE, SIDE)
    body, window, wheels, lamp = (torch.zeros(SIDE, SIDE, dtype=torch.bool) for _ in range(4))
    body[20:44, 8:56] = window[24:32, 20:36] = lamp[34:40, 50:56] = wheels[44:52, 12:20] = wheels[44:52, 40:48] = True
    body &= ~window & ~lamp
    shade = torch.linspace(0.85, 1.1, SIDE)[:, None].expand(SIDE, SIDE)
    rgb[:, body] = (torch.tensor(colour)[:, None, None] * shade)[:, body]
    rgb[:, window], rgb[:, wheels], rgb[:, lamp] = 1.0, 0.08, torch.tensor([0.8, 0.1, 0.8])[:, None]
    opacity[0, body | window | wheels | lamp] = 1
    return rgb[None].clamp(0, 1) * 2 - 1, opacity[None], (body, window, wheels, lamp)


def given(*tints):
    """One tint for each thing of one picture, None where none is given."""
    rows = [(0.0, 0.3, -0.2, 0.1) if t is None else (1.0, *(2 * value - 1 for value in t)) for t in tints]
    return torch.tensor([rows])


@pytest.mark.parametrize("own", [(0.1, 0.4, 0.8), (0.95, 0.7, 0.2), (0.6, 0.6, 0.6), (0.95, 0.95, 0.95)])
@pytest.mark.parametrize("wanted", [RED, (0.1, 0.6, 0.2), (0.15, 0.15, 0.16), (0.93, 0.94, 0.96)])
def test_a_thing_takes_its_colour_and_keeps_the_others(own, wanted):
    rgb, opacity, (body, window, wheels, lamp) = car(own)
    drawn = recolour(rgb, opacity, None, given(wanted))
    colours = drawn[0].add(1).div(2)
    assert (main_colour(colours[None], opacity)[0, :, 0, 0] - torch.tensor(wanted)).abs().max() < 0.08
    assert (drawn - rgb)[0][:, wheels].abs().max() < 0.16 and (drawn - rgb)[0][:, lamp].abs().max() < 0.02
    if max(own) - min(own) > 0.1:  # of a white thing the window is a part
        assert (drawn - rgb)[0][:, window].abs().max() < 0.02
    brightness = colours[:, 20:44, 10].sum(0)  # down the body, which is the lighter the lower
    assert (brightness.diff() > -1e-5).all() and brightness[-1] > brightness[0]
    assert drawn.abs().max() <= 1 + 1e-5


def test_only_what_is_given_a_colour_changes():
    rgb, opacity, _ = car()
    left = torch.zeros(1, 2, SIDE, SIDE)
    left[:, 0, :, :32], left[:, 1, :, 32:] = 1, 1
    assert torch.equal(recolour(rgb, opacity, left, given(None, None)), rgb)
    drawn = recolour(rgb, opacity, left, given(RED, None))
    assert torch.equal(drawn[..., 32:], rgb[..., 32:]) and (drawn - rgb)[..., :32].abs().max() > 0.5
    both = recolour(rgb, opacity, left, given(RED, (0.1, 0.6, 0.2)))
    assert torch.equal(both[..., :32], drawn[..., :32])
    assert both[0, 1, 30, 50] > both[0, 0, 30, 50] and both[0, 0, 36, 12] > both[0, 1, 36, 12]


def test_pictures_of_a_batch_are_painted_each_by_itself(monkeypatch):
    cars = [car(), car((0.9, 0.8, 0.1))]
    rgb, opacity = (torch.cat(parts) for parts in list(zip(*cars))[:2])
    tints = torch.cat([given(RED), given(None)])
    together = recolour(rgb, opacity, None, tints)
    for i in range(2):
        assert torch.allclose(together[i], recolour(rgb[i : i + 1], opacity[i : i + 1], None, tints[i : i + 1])[0], atol=1e-5)
    monkeypatch.setattr(tint, "AT_ONCE", 1000)
    assert torch.equal(recolour(rgb, opacity, None, tints), together)


def test_what_is_not_there_cannot_be_painted():
    rgb, opacity, _ = car()
    assert torch.equal(recolour(rgb, torch.zeros_like(opacity), torch.zeros(1, 1, SIDE, SIDE), given(RED)), rgb)


def test_painting_has_gradients():
    rgb, opacity, (body, *_) = car((0.5, 0.5, 0.5))  # grey, where chroma has no direction
    rgb.requires_grad_()
    recolour(rgb, opacity, None, given(RED)).square().sum().backward()
    assert rgb.grad.isfinite().all() and (rgb.grad[0][:, body] != 0).any()
