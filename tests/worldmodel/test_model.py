import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.distributions import Normal
from toy_logs import slide, sliding_mass, with_images, write_log

from worldmodel.context import ContextSpec
from worldmodel.loss import open_loop_loss, transition_loss, vector_loss, world_model_loss
from worldmodel.model import Belief, ModelConfig, Spaces, WorldModel
from worldmodel.optim import LaProp, SafeStep
from worldmodel.replay import Batch, Replay
from worldmodel.rssm import RSSMConfig

SMALL = RSSMConfig(deter=32, hidden=16, stoch=4, classes=6, blocks=4)
TINY = ModelConfig(SMALL, units=16, depth=2, layers=1)
WITHOUT_CARRY = dataclasses.replace(TINY, carry=False)


@pytest.fixture
def replay(tmp_path) -> Replay:
    reader = write_log(tmp_path, [*sliding_mass(4, steps=20), *sliding_mass(2, steps=20, seed=1, label=False)])
    return Replay(reader, ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0)))


def built(replay: Replay, config: ModelConfig = TINY, image: bool = False) -> WorldModel:
    torch.manual_seed(0)
    model = WorldModel(config, Spaces(2, 1, image), replay.context)
    model.set_statistics(replay.statistics())
    # The last layers begin at (almost) zero, where what they are given makes no difference.
    for layer in (model.decoder.out, model.reward.out):
        torch.nn.init.normal_(layer.weight, 0.0, 0.3)
    return model.eval()


def observed(model: WorldModel, batch: Batch, hidden: bool) -> Belief:
    torch.manual_seed(1)
    with torch.no_grad():
        return model.observe(batch, hidden)


def same(a: Belief, b: Belief) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a, b, strict=True))


# -- what the model is told ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_known_physics_changes_what_the_model_believes(replay, config):
    model, batch = built(replay, config), replay.whole([0, 1], 8)
    other = dataclasses.replace(batch, context=batch.context + 0.5)
    assert not same(observed(model, batch, hidden=False), observed(model, other, hidden=False))


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_hidden_physics_cannot_leak(replay, config):
    """What the robot does not know changes nothing: neither values, nor flags, nor what reached the motors."""
    model, batch = built(replay, config), replay.whole([0, 1], 8)
    other = dataclasses.replace(batch, context=batch.context + 0.5, applied_action=0.3 * batch.applied_action)
    other = dataclasses.replace(other, known=1 - batch.known)
    assert same(observed(model, batch, hidden=True), observed(model, other, hidden=True))


def test_a_factor_that_is_unknown_cannot_leak(replay):
    model, batch = built(replay), replay.whole([0, 1], 8)
    batch = dataclasses.replace(batch, known=torch.zeros_like(batch.known))
    other = dataclasses.replace(batch, context=torch.randn_like(batch.context))
    assert same(observed(model, batch, hidden=False), observed(model, other, hidden=False))


def test_unlabelled_logs_give_the_command_labelled_ones_what_reached_the_motors(replay):
    model, batch = built(replay), replay.whole([0, 4], 8)
    batch = dataclasses.replace(batch, applied_action=0.5 * batch.action)
    shown = model.inputs(batch, torch.zeros_like(batch.labelled))
    assert torch.equal(shown[0, :, :1], batch.applied_action[0])
    assert torch.equal(shown[1, :, :1], batch.action[1])
    assert torch.equal(shown[1, :, 1:], torch.zeros(8, 2 * len(model.context)))


# -- filtering and imagining -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_filtering_a_sequence_equals_filtering_step_by_step(replay, config):
    model, batch = built(replay, config), replay.gather(np.arange(15, 27)[None] + np.array([[0], [21]]))
    whole = observed(model, batch, hidden=False)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    torch.manual_seed(1)
    belief = model.initial(2)
    for t in range(12):
        belief = model.observe_step(belief, batch.vector[:, t], None, inputs[:, t], batch.is_first[:, t])
        assert torch.equal(belief.stoch, whole.stoch[:, t])
        assert torch.allclose(belief.feat(), whole.at(slice(None), t).feat(), atol=1e-5)


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_a_new_episode_knows_nothing_of_the_one_before(replay, config):
    model, batch = built(replay, config), replay.gather(np.arange(16, 26)[None])
    border = int(batch.is_first[0, 1:].nonzero()) + 1
    vector = batch.vector.clone()
    vector[:, :border] += 1.0
    a, b = observed(model, batch, False), observed(model, dataclasses.replace(batch, vector=vector), False)
    assert not torch.equal(a.deter[:, border - 1], b.deter[:, border - 1])
    assert torch.equal(a.deter[:, border:], b.deter[:, border:])


def test_imagining_sees_actions_and_physics_and_nothing_else(replay):
    model, batch = built(replay), replay.whole([0, 1], 12)
    start = observed(model, batch, hidden=False).at(slice(None), 5)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))[:, 6:]
    a, b = (model.decode(model.imagine(start, inputs, sample=False)) for _ in range(2))
    assert a.shape == (2, 6, 2) and torch.equal(a, b)
    changed = inputs.clone()
    changed[:, 3, 0] += 0.7
    c = model.decode(model.imagine(start, changed, sample=False))
    assert torch.equal(a[:, :3], c[:, :3]) and not torch.equal(a[:, 3], c[:, 3])


def test_scaling_is_undone_by_decoding(replay):
    model, batch = built(replay), replay.whole([0], 6)
    scaled = model.scale(batch.vector)
    assert torch.allclose(scaled * model.std + model.mean, batch.vector, atol=1e-5)
    carried = model.decode(observed(model, batch, False))
    assert torch.allclose(carried, batch.vector, atol=1e-5)


def test_heads_begin_without_an_opinion(replay):
    torch.manual_seed(0)
    model = WorldModel(TINY, Spaces(2, 1), replay.context).eval()
    belief = observed(model, replay.whole([0], 6), False)
    assert torch.equal(model.predict_reward(belief), torch.zeros(1, 6))
    continuation = model.predict_continuation(belief)
    assert ((continuation > 0) & (continuation < 1)).all()
    mean, std = model.estimate_context(belief)
    assert mean.shape == std.shape == (1, 6, 1) and (std > 0).all()


# -- the loss --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_the_loss_is_the_sum_of_its_parts_and_reaches_every_weight(replay, config):
    model = built(replay, config).train()
    rng = np.random.default_rng(0)
    loss, parts, _ = world_model_loss(model, replay.sample(8, 10, rng))
    scales = {"representation": config.representation_scale}
    assert loss.item() == pytest.approx(sum(scales.get(k, 1.0) * v.item() for k, v in parts.items()), rel=1e-5)
    loss.backward()
    own = [name for name, p in model.named_parameters() if p.grad is None]
    assert all(name.startswith("transition.") for name in own) and bool(own) == config.carry
    if config.carry:
        transition_loss(model, replay.sample(8, 2, rng)).backward()
    untouched = [name for name, p in model.named_parameters() if p.grad is None]
    assert not untouched


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_losses_stay_on_their_device(replay, config):
    """Torch's device without numbers refuses whatever was made elsewhere."""
    model, batch = built(replay, config).train().to("meta"), replay.whole([0, 1], 6).to("meta")
    losses = [world_model_loss(model, batch).total, *([transition_loss(model, batch)] if config.carry else [])]
    for loss in losses:
        assert loss.device.type == "meta"
        loss.backward()


def test_additions_to_dreamer_can_be_switched_off(replay):
    config = WITHOUT_CARRY
    parts = world_model_loss(built(replay, config).train(), replay.sample(8, 10, np.random.default_rng(0))).parts
    assert set(parts) == {"vector", "dynamics", "representation", "reward", "continuation", "context"}
    bare = WorldModel(config, Spaces(2, 1), ContextSpec((), (), ()))
    assert bare.context_head is None
    batch = Replay(replay.reader, bare.context).sample(8, 10, np.random.default_rng(0))
    assert "context" not in world_model_loss(bare, batch).parts


def test_the_context_is_learnt_only_where_it_was_hidden_and_is_labelled(replay):
    rng = np.random.default_rng(0)
    told = built(replay, dataclasses.replace(TINY, context_dropout=0.0)).train()
    assert world_model_loss(told, replay.sample(8, 10, rng)).parts["context"].item() == 0
    hidden = built(replay, dataclasses.replace(TINY, context_dropout=1.0)).train()
    assert world_model_loss(hidden, replay.whole([0, 1], 10)).parts["context"].item() != 0
    assert world_model_loss(hidden, replay.whole([4, 5], 10)).parts["context"].item() == 0


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_the_vector_loss_is_the_weighted_gaussian_one(replay, config):
    """Against torch's own normal distribution: beta = 0.5, the weight a standard deviation without gradient."""
    model, batch = built(replay, config), replay.whole([0, 1], 8)
    torch.nn.init.normal_(model.decoder.out.bias, 0.0, 1.0)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    beliefs, _, before = model.filter(batch.vector, None, inputs, batch.is_first)
    target = model.scale(batch.vector)
    mean, log_std = model.expected(beliefs.latent, before, inputs)
    unit = model.step_std if config.carry else torch.ones(2)
    nll = -Normal(mean / unit, log_std.exp()).log_prob(target / unit) - 0.5 * math.log(2 * math.pi)
    expected = (nll * log_std.exp()).sum(-1)
    assert torch.allclose(vector_loss(model, mean, log_std, target), expected, rtol=1e-3, atol=1e-4)


def test_the_published_vector_loss_is_the_squared_error_of_symlog(replay):
    model, batch = built(replay, dataclasses.replace(WITHOUT_CARRY, vector_loss="symlog")), replay.whole([0, 1], 8)
    torch.nn.init.normal_(model.decoder.out.bias)
    belief = model.observe(batch, hidden=True)
    out, target = model.decoder(belief.latent.feat()), model.scale(batch.vector)
    symlog = torch.sign(target) * torch.log1p(target.abs())
    torch.manual_seed(0)
    loss = world_model_loss(model, batch)
    expected = ((model.decoder(loss.beliefs.latent.feat()) - symlog) ** 2).sum(-1).mean()
    assert torch.allclose(loss.parts["vector"], model.config.vector_scale * expected, rtol=1e-4)
    decoded = torch.sign(out) * torch.expm1(out.abs()) * model.std + model.mean
    assert torch.allclose(model.decode(belief), decoded, atol=1e-4)
    with pytest.raises(ValueError, match="carry=False"):
        built(replay, dataclasses.replace(TINY, vector_loss="symlog"))


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_no_channel_claims_less_noise_than_the_floor(replay, config):
    model, batch = built(replay, config), replay.whole([0, 1], 8)
    with torch.no_grad():
        for head in (model.decoder, model.transition and model.transition.head):
            if head is not None:
                head.out.weight.zero_()
                head.out.bias.fill_(-50.0)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    beliefs, _, before = model.filter(batch.vector, None, inputs, batch.is_first)
    _, log_std = model.expected(beliefs.latent, before, inputs)
    assert log_std.exp().min().item() == pytest.approx(config.noise_floor, rel=1e-5)
    assert log_std.exp().max().item() == pytest.approx(config.noise_floor, rel=1e-5)


def test_the_transition_takes_the_physics_it_is_told_and_remembers_nothing(replay):
    model, batch = built(replay), replay.whole([0, 1], 8)
    torch.nn.init.normal_(model.transition.head.out.weight)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    before = model.scale(batch.vector)

    def change(context: float, steps: int) -> torch.Tensor:
        told = model.action_input(batch.applied_action, torch.full((2, 8, 1), context), torch.ones(2, 8, 1))
        return model.transition(before[:, -steps:], told[:, -steps:])[0][:, -1]

    assert inputs.shape[-1] == 3 and not torch.allclose(change(1.0, 8), change(0.0, 8), atol=1e-3)
    assert torch.allclose(change(0.5, 8), change(0.5, 1), atol=1e-5)


def test_where_no_physics_is_told_the_transition_is_silent(replay):
    """It would have to guess what memory knows. In a model whose logs told nothing it speaks always."""
    model, batch = built(replay), replay.whole([0, 1], 8)
    torch.nn.init.normal_(model.transition.head.out.bias)
    torch.nn.init.zeros_(model.decoder.out.weight)  # memory has nothing to add
    for hidden in (False, True):
        inputs = model.inputs(batch, torch.full_like(batch.labelled, hidden))
        beliefs, _, before = model.filter(batch.vector, None, inputs, batch.is_first)
        moved = model.expected(beliefs.latent, before, inputs)[0] - before
        assert bool(moved.abs().max() < 1e-6) == hidden
    bare = WorldModel(TINY, Spaces(2, 1), ContextSpec((), (), ()))
    assert torch.equal(bare.is_told(torch.zeros(3, 1)), torch.ones(3, 1))


def test_training_shows_the_way_back_from_a_wrong_observation(replay):
    """Disturbed rows aim at the true next one, so that rollouts return to where the logs are."""
    model = built(replay).train()
    with torch.no_grad():
        model.transition.head.out.weight.zero_()
        model.transition.head.out.bias.zero_()
    pairs = replay.whole([0, 1], 2)
    pairs.vector[:, 1] = pairs.vector[:, 0]  # nothing moves: all that is left is to undo the disturbance
    assert transition_loss(model, pairs, noise=1.0) > transition_loss(model, pairs)


def test_further_steps_follow_where_the_transition_led(replay):
    """A transition that moves nothing strays by one more unit a step from a mass that moves one unit a step."""
    model = built(replay)
    law = model.transition
    with torch.no_grad():
        for part in (law.head.out, law.pay.out):
            part.weight.zero_()
            part.bias.zero_()
    window = replay.whole([0, 1], 4)
    window.vector[:] = (torch.arange(4.0)[None, :, None] * model.step_std) * model.std + model.mean
    noise = model.floored(torch.zeros(2)).exp()
    first = vector_loss(model, torch.zeros(2), noise.log(), model.step_std)
    further = [torch.log1p(0.5 * t**2 / noise).sum() / 3 for t in (2, 3)]
    paid = math.log(255)
    assert transition_loss(model, window).item() == pytest.approx((first + sum(further)).item() + paid, rel=1e-4)
    # Where another episode begins there is nothing to follow, from there on.
    window.is_first[:, 2] = True
    assert transition_loss(model, window).item() == pytest.approx(first.item() + paid, rel=1e-4)


def test_what_a_carried_observation_begins_with_is_not_learnt(replay):
    """Nothing came before the first row, so there is no change to predict: its error does not count."""
    batch = replay.whole([0, 1], 2)
    batch.is_first[:] = True
    assert world_model_loss(built(replay).train(), batch).parts["vector"].item() == 0
    assert world_model_loss(built(replay, WITHOUT_CARRY).train(), batch).parts["vector"].item() != 0


def test_the_stated_noise_follows_the_noise_there_is(tmp_path):
    """Steps are loud under one command and quiet under the other, by a factor of ten; the decoder finds out."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(30):
        action = np.where(rng.random((20, 1)) < 0.5, -1.0, 1.0).astype(np.float32)
        change = np.where(action > 0, 0.2, 0.02) * rng.standard_normal((20, 2))
        rows = np.concatenate([np.zeros((1, 2)), np.cumsum(change, 0)]).astype(np.float32)
        one = slide(1.0, action[:, 0], 0.0, 0.0)
        episodes.append(dataclasses.replace(one, observation={"vector": rows}))
    reader = write_log(tmp_path, episodes)
    replay = Replay(reader, ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0)))
    torch.manual_seed(0)
    model = WorldModel(TINY, Spaces(2, 1), replay.context).train()
    model.set_statistics(replay.statistics())
    step = SafeStep(LaProp(model.parameters(), 3e-3, warmup=20))
    for _ in range(300):
        assert step(
            world_model_loss(model, replay.sample(16, 16, rng)).total
            + transition_loss(model, replay.sample(256, 2, rng))
        )
    batch = replay.whole(range(30), 21)
    inputs = model.inputs(batch, torch.zeros_like(batch.labelled))
    with torch.no_grad():
        beliefs, _, before = model.filter(batch.vector, None, inputs, batch.is_first)
        mean, log_std = model.expected(beliefs.latent, before, inputs)
    error = ((model.scale(batch.vector) - mean) / model.step_std)[:, 1:]
    stated, loud = log_std.exp()[:, 1:], batch.action[:, 1:, 0] > 0
    claims = [stated[which].mean().item() for which in (loud, ~loud)]
    truths = [error[which].square().mean().sqrt().item() for which in (loud, ~loud)]
    assert claims == pytest.approx(truths, rel=0.35), (claims, truths)
    assert claims[0] > 4 * claims[1], (claims, truths)


def test_what_an_observation_pays_by_itself_is_learnt_from_rows_alone(tmp_path):
    """A reward with an edge: 1 within 0.3 of the origin, else 0. No memory is needed, and none is trained here."""
    rng = np.random.default_rng(0)
    episodes = []
    for _ in range(20):
        one = slide(1.0, np.zeros(20, np.float32), 0.0, 0.0)
        rows = rng.uniform(-1, 1, (21, 2)).astype(np.float32)
        paid = (np.hypot(*rows[1:].T) < 0.3).astype(np.float32)
        episodes.append(dataclasses.replace(one, observation={"vector": rows}, reward=paid))
    replay = Replay(write_log(tmp_path, episodes), ContextSpec((), (), ()))
    torch.manual_seed(0)
    model = WorldModel(dataclasses.replace(TINY, units=64), Spaces(2, 1), replay.context)
    model.set_statistics(replay.statistics())
    step = SafeStep(LaProp(model.transition.parameters(), 3e-3, warmup=20))
    for _ in range(600):
        assert step(transition_loss(model, replay.sample(256, 2, rng)))
    belief = model.initial(4)._replace(vector=model.scale(torch.tensor([[0.2, 0], [0, -0.2], [0.45, 0], [0.35, 0.3]])))
    assert model.predict_reward(belief).tolist() == pytest.approx([1, 1, 0, 0], abs=0.15)


@pytest.mark.parametrize("config", [TINY, WITHOUT_CARRY])
def test_evaluating_a_loss_changes_nothing_in_the_model(replay, config):
    model = built(replay, config)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    world_model_loss(model, replay.whole([0, 1], 10))
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_a_batch_that_is_not_finite_leaves_no_trace(replay):
    model = built(replay).train()
    step = SafeStep(LaProp(model.parameters(), 1e-3))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    batch = replay.whole([0, 1], 10)
    batch.vector[0, 4, 1] = float("nan")
    loss = world_model_loss(model, batch).total
    assert not step(loss)
    changed = [name for name, value in model.state_dict().items() if not torch.isfinite(value).all()]
    assert not changed
    assert all(torch.equal(value, before[name]) for name, value in model.named_parameters())


def test_images_train_a_step_and_decode_to_pictures(tmp_path):
    reader = write_log(tmp_path, [with_images(episode) for episode in sliding_mass(3, steps=8)])
    replay = Replay(reader, ContextSpec.from_logs([e["physics"] for e in reader.episodes], np.zeros(0)))
    model = built(replay, image=True).train()
    batch = replay.sample(2, 5, np.random.default_rng(0))
    assert batch.image is not None and batch.image.dtype == torch.uint8
    step = SafeStep(LaProp(model.parameters(), 3e-3, warmup=1))
    losses = []
    for _ in range(25):
        loss, parts, _ = world_model_loss(model, batch)
        assert step(loss)
        losses.append(parts["image"].item())
    assert losses[-1] < 0.7 * losses[0]
    picture = model.decode_image(observed(model.eval(), batch, False))
    assert picture.shape == (2, 5, 64, 64, 3) and picture.min() >= 0 and picture.max() <= 1


def test_a_model_of_images_wants_images_and_one_without_has_none_to_give(replay):
    with pytest.raises(ValueError, match="trained with images"):
        built(replay, image=True).encode(torch.zeros(1, 2))
    model = built(replay)
    with pytest.raises(ValueError, match="trained without images"):
        model.decode_image(model.initial(1))


def test_a_step_on_prepared_weights_is_the_same_step(replay):
    model = built(replay)
    belief, inputs = model.initial(16)._replace(vector=torch.randn(16, 2)), torch.randn(16, 1 + 2 * len(model.context))
    found = []
    for prepared in (None, model.rssm.prepared()):
        torch.manual_seed(1)
        following = model.imagine_step(belief, inputs, noisy=True, prepared=prepared)
        found.append(model.imagine_step(following, inputs, noisy=True, prepared=prepared))
    for expected, same in zip(*found, strict=True):
        torch.testing.assert_close(same, expected, rtol=1e-5, atol=1e-5)


# -- rollouts in training ----------------------------------------------------------------------------------------------


def test_the_open_loop_loss_is_how_far_a_dream_strays(replay):
    model, batch = built(replay), replay.whole([0, 1], 12)
    inputs, scaled = model.inputs(batch, torch.zeros_like(batch.labelled)), model.scale(batch.vector)
    beliefs = observed(model, batch, hidden=False)
    torch.manual_seed(2)
    loss = open_loop_loss(model, beliefs, inputs, scaled, batch.is_first, 5)
    torch.manual_seed(2)
    with torch.no_grad():
        dreamt = model.imagine(beliefs.at(slice(None), 6), inputs[:, 7:]).vector
    by_step = 0.5 * (((scaled[:, 7:] - dreamt) / model.step_std) ** 2).sum(-1) / torch.arange(1, 6)
    assert torch.allclose(loss, by_step.mean(1), rtol=1e-4)
    # The next episode is another matter.
    ended = batch.is_first.clone()
    ended[:, 9] = True
    torch.manual_seed(2)
    assert torch.allclose(
        open_loop_loss(model, beliefs, inputs, scaled, ended, 5), by_step[:, :2].sum(1) / 5, rtol=1e-4
    )


def test_the_open_loop_loss_teaches_memory_and_leaves_the_transition_alone(replay):
    model, batch = built(replay), replay.whole([0, 1], 12)
    by_part = {}
    for steps in (0, 5):
        model.zero_grad()
        torch.manual_seed(2)
        losses = world_model_loss(model, batch, steps)
        losses.total.backward()
        assert ("open_loop" in losses.parts) == bool(steps)
        assert model.transition is not None
        assert all(p.grad is None for p in model.transition.head.parameters())
        by_part[steps] = torch.cat([p.grad.flatten() for p in model.rssm.parameters() if p.grad is not None])
    assert not torch.allclose(by_part[0], by_part[5])
    with pytest.raises(ValueError, match="carries the observation"):
        world_model_loss(built(replay, WITHOUT_CARRY), batch, 5)


def test_an_episode_that_begins_forgets_even_what_is_no_number():
    size, nothing = ModelConfig(RSSMConfig(32, 16, 4, 4, 4), units=16, layers=1), ContextSpec((), (), ())
    model = WorldModel(size, Spaces(2, 1), nothing)
    belief = Belief(*(part + torch.nan for part in model.initial(1)))
    inputs = model.action_input(torch.zeros(1, 1), torch.zeros(1, 0), torch.zeros(1, 0))
    after = model.observe_step(belief, torch.zeros(1, 2), None, inputs, torch.tensor([True]))
    assert all(torch.isfinite(part).all() for part in after)
