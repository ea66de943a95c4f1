"""What is recorded, replayed and forgotten; with functions in the place of a GPU's graphs (`test_cuda.py` has those)."""

from contextlib import nullcontext
from typing import NamedTuple

import pytest
import torch

from llm_gan.models import recorded
from llm_gan.models.checkpoint import DEFAULT_GAN, load_gan
from llm_gan.models.gan import Latent
from llm_gan.models.language.model import LanguageModel
from llm_gan.models.recorded import MOST, WARM, RecordedSteps, Recordings, near


@pytest.fixture
def made(monkeypatch):
    """A list that grows with every recording that is made: of each, how often it was replayed."""
    counts = []

    def record(work, inputs, pool):
        assert pool == "pool"
        own, index = [x if x is None else x.clone() for x in inputs], len(counts)
        counts.append(0)

        def replay(inputs):
            assert all(x is None or x.shape == y.shape for x, y in zip(own, inputs))
            counts[index] += 1
            return work(*inputs)

        return replay

    monkeypatch.setattr(recorded, "_on_gpu", lambda inputs: True)
    monkeypatch.setattr(recorded, "record", record)
    monkeypatch.setattr(torch.cuda, "graph_pool_handle", lambda: "pool")
    return counts


def add(x, y, *, factor=1):
    return (x if y is None else x + factor * y,)


def test_the_second_call_of_a_kind_is_recorded_and_later_ones_are_replayed(made):
    recordings = Recordings()
    with torch.no_grad():
        for value in range(5):
            x = torch.full((2, 3), float(value))
            assert torch.equal(recordings.run(add, x, torch.ones(2, 3))[0], x + 1)
            assert made == ([value] if value else [])  # replayed once in the very call that made it


def test_shapes_settings_and_absent_tensors_make_kinds(made):
    recordings, x = Recordings(), torch.ones(2, 3)
    others = [
        ((x, x), {}),
        ((x[:1], x[:1]), {}),
        ((x, None), {}),
        ((x.half(), x.half()), {}),
        ((x, x), {"factor": 2}),
    ]
    with torch.no_grad():
        for inputs, settings in others * 2:
            assert torch.equal(recordings.run(add, *inputs, **settings)[0], add(*inputs, **settings)[0])
    assert made == [1] * len(others)


def test_nothing_is_recorded_where_weights_learn_a_gradient_is_wanted_or_no_gpu_computes(made, monkeypatch):
    recordings, x = Recordings(), torch.ones(2, requires_grad=True)
    for _ in range(3):
        assert recordings.run(add, x, x)[0].requires_grad
    learning, network = Recordings(), torch.nn.Linear(2, 2)
    assert learning.follow(network) is None
    with torch.no_grad():
        for _ in range(3):
            learning.run(add, x, x)
    monkeypatch.undo()
    with torch.no_grad():
        for _ in range(3):
            recordings.run(add, x, x)
    assert not made


def test_changed_and_moved_weights_end_every_recording(made):
    network, x = torch.nn.Module(), torch.ones(2, 3)
    network.register_buffer("weight", torch.ones(3))
    recordings = Recordings()

    def times(x):
        return (x * network.weight,)

    def run():
        recordings.follow(network)
        return recordings.run(times, x)[0]

    with torch.no_grad():
        for _ in range(3):
            run()
        assert made == [2]
        network.weight.mul_(2)
        assert torch.equal(run(), 2 * x) and made == [2]
        run()
        assert made == [2, 1]
        network.double()
        assert torch.equal(run(), 2 * x.double()) and made == [2, 1]


def test_a_network_that_is_moved_ends_its_recordings(made):
    network, x = torch.nn.Module(), torch.ones(2, 3)
    network.recordings = Recordings()
    with torch.no_grad():
        for _ in range(3):
            network.recordings.run(add, x, None)
        network.to(torch.float64)
        network.recordings.run(add, x, None)
        assert made == [2]  # it runs as at first
        network.recordings.run(add, x, None)
    assert made == [2, 1]


def test_the_kinds_last_used_are_kept(made):
    recordings, kinds = Recordings(), [torch.ones(n + 1) for n in range(MOST + 1)]
    with torch.no_grad():
        for x in kinds[:MOST] * 2:
            recordings.run(add, x, None)
        recordings.run(add, kinds[0], None)
        recordings.run(add, kinds[MOST], None)  # in the place of kinds[1], which was used longest ago
        assert made[:2] == [2, 1]
        recordings.run(add, kinds[0], None)
        recordings.run(add, kinds[1], None)
    assert made[:2] == [3, 1] and len(made) == MOST


def test_what_cannot_be_recorded_runs_as_it_is(made, monkeypatch, caplog):
    tried = []

    def refuse(work, inputs, pool):
        tried.append(work)
        raise RuntimeError("operation not permitted when stream is capturing")

    monkeypatch.setattr(recorded, "record", refuse)
    recordings, x = Recordings(), torch.ones(2)
    with torch.no_grad():
        for _ in range(4):
            assert torch.equal(recordings.run(add, x, x)[0], x + x)
    assert len(tried) == 1 and "not permitted" in caplog.text


def test_what_a_recording_gives_is_read_before_the_next_one_overwrites_it(made, monkeypatch):
    """Drawn and read with recordings that spoil, when one is replayed, whatever any of them gave before, as their common memory
    may."""
    given, replays = [], []

    def record(work, inputs, pool):
        own = [x if x is None else x.clone() for x in inputs]

        def replay(inputs):
            for x, value in zip(own, inputs):
                if x is not None:
                    x.copy_(value)
            for spoilt in given:
                spoilt.fill_(torch.nan if spoilt.is_floating_point() else 0)
            results = tuple(result.clone() for result in work(*own))
            given[:] = results
            replays.append(work)
            return results

        return replay

    gan, model = load_gan(DEFAULT_GAN), LanguageModel.load("gemma-3-270m")
    monkeypatch.setattr(recorded, "record", record)

    def drawn():
        pictures = []
        for seed, psi in ((0, 1.0), (1, 0.7), (2, 1.0)):
            condition = model.encode(["a cat and a dog", "a red heart, flat style"][:: 1 if seed % 2 else -1], gan.recipe)
            z = gan.sample_z(seed, 2)
            for latent in (Latent(z), Latent(z, background=torch.tensor([[1.0, 0, 0, 0]] * 2))):
                pictures.append(gan.generate(condition, latent, psi)[0])
        return torch.stack(pictures)

    pictures = drawn()
    # All calls but the first of each kind: three times the prompts are encoded, laid out and understood, and drawn twice.
    assert len(replays) == 2 + 2 + 2 + 5 and pictures.isfinite().all()
    monkeypatch.undo()
    assert torch.equal(pictures, drawn())


class Told(NamedTuple):
    x: torch.Tensor
    y: torch.Tensor | None


class Learner:
    """One weight, pulled towards what it is given, and a count of the steps that ran as they are."""

    def __init__(self, monkeypatch, spoil=None):
        self.weight, self.plain, self.captured = torch.zeros(3), 0, 0
        self.steps = RecordedSteps(self.step, lambda: [self.weight], lambda: None)
        monkeypatch.setattr(recorded, "_aside", lambda device: nullcontext())
        monkeypatch.setattr(recorded, "waiting", lambda work, given: (work(given), ""))
        monkeypatch.setattr(recorded, "capture", self.capture)
        self.spoil = spoil

    def step(self, given):
        self.plain += 1
        self.weight += 0.5 * (given.x - self.weight)
        return self.weight.sum()[None]

    def capture(self, work, given):
        """As a graph does: nothing is computed until it is replayed, and then with what is copied in."""
        self.captured += 1
        own, figures = tuple(x if x is None else x.clone() for x in given), torch.zeros(1)

        def replay(given):
            if self.spoil:
                return self.spoil(self, given)
            own[0].copy_(given.x)
            figures.copy_(self.step(Told(*own)))
            self.plain -= 1
            return figures

        return replay


def taught(learner, count, y=None):
    """What a weight becomes of as many steps, beside what it would be without recordings."""
    expected = torch.zeros(3)
    for value in range(count):
        x = torch.full((3,), float(value))
        expected += 0.5 * (x - expected)
        assert torch.equal(learner.steps(Told(x, y)), expected.sum()[None])
        assert torch.equal(learner.weight, expected)


def test_steps_are_recorded_when_they_are_warm(monkeypatch):
    learner = Learner(monkeypatch)
    taught(learner, 12)
    assert learner.captured == 1 and learner.plain == WARM + 1  # the last beside its recording


def test_steps_of_other_shapes_are_recorded_anew(monkeypatch):
    learner = Learner(monkeypatch)
    taught(learner, 8)
    learner.weight.zero_()
    taught(learner, 8, torch.ones(1))
    assert learner.captured == 2 and learner.plain == 2 * (WARM + 1)
    learner.steps.forget()
    learner.weight.zero_()
    taught(learner, 8, torch.ones(1))
    assert learner.captured == 3


def fails(learner, given):
    raise RuntimeError("out of memory")


def does_nothing(learner, given):
    return learner.weight.sum()[None]


def tells_nothing(learner, given):
    learner.weight += 0.5 * (given.x - learner.weight)
    return torch.zeros(1)


@pytest.mark.parametrize("spoil", [fails, does_nothing, tells_nothing])
def test_a_recording_that_fails_or_does_other_things_is_not_used(monkeypatch, caplog, spoil):
    learner = Learner(monkeypatch, spoil)
    taught(learner, 12)
    assert learner.captured == 1 and learner.plain == 12 and "cannot be recorded" in caplog.text


def test_steps_that_wait_are_not_recorded(monkeypatch, caplog):
    learner = Learner(monkeypatch)
    monkeypatch.setattr(recorded, "waiting", lambda work, given: (work(given), "called a synchronizing operation"))
    taught(learner, 12)
    assert learner.captured == 0 and learner.plain == 12 and "synchronizing" in caplog.text


def test_a_replay_with_other_numbers_is_told():
    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    assert near(x, x) and near(x + 1e-4, x) and near(x > 0, x > 0) and near(x[:, :0], x[:, :0])
    assert not near(x + 0.1, x) and not near(x.flip(0), x) and not near(x * torch.nan, x)
