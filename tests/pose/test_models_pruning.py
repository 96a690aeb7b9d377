"""Token pruning against a slow and readable computation of the same thing."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from cycledistill import CycleWrapper, count_macs
from cycledistill._tokens import relative_changes
from cycledistill_pose.models import StemNet, TokenPose, TokenPruning, create_model
from cycledistill_pose.models._pruning import PruningPass

K = 5
KINDS = ["sine-full", "sine", "learnable"]
PRUNING = TokenPruning(blocks=(1, 2), keep_ratio=0.6)


def small(
    kind: str = "sine-full", pruning: TokenPruning | None = PRUNING, depth: int = 4
) -> TokenPose:
    torch.manual_seed(1)
    model = TokenPose(
        K,
        (32, 48),
        (8, 12),
        dim=16,
        depth=depth,
        num_heads=4,
        patch_size=(2, 2),
        position_embedding=kind,  # type: ignore[arg-type]
        backbone=StemNet(width=4, num_blocks=1),
        pruning=pruning,
    )
    for name, parameter in model.named_parameters():
        if "backbone" not in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return model.eval()


def run_blocks_slowly(
    model: TokenPose, tokens: Tensor, position: Tensor, ratio: float
) -> tuple[Tensor, Tensor]:
    """One sample `[T, D]` through the stack, token by token; position `[T - K, D]`.

    Returns the tokens and the positions of the visual ones among them. Ratio 1 prunes nothing.
    """
    weights = model.state_dict()
    heads, dim = 4, 16
    size = dim // heads
    for index in range(4):
        name = f"blocks.{index}."
        if index and model.position_embedding == "sine-full":
            tokens = torch.stack(
                [t if i < K else t + position[i - K] for i, t in enumerate(tokens)]
            )
        normed = F.layer_norm(
            tokens, (dim,), weights[name + "norm1.weight"], weights[name + "norm1.bias"]
        )
        qkv = normed @ weights[name + "attn.qkv.weight"].T
        count = len(tokens)
        attention = torch.zeros(heads, count, count)
        mixed = torch.zeros(count, dim)
        for head in range(heads):
            columns = slice(head * size, (head + 1) * size)
            q, k, v = (
                qkv[:, :dim][:, columns],
                qkv[:, dim : 2 * dim][:, columns],
                qkv[:, 2 * dim :][:, columns],
            )
            for i in range(count):
                logits = [float(q[i] @ k[j]) / math.sqrt(size) for j in range(count)]
                top = max(logits)
                total = sum(math.exp(logit - top) for logit in logits)
                for j in range(count):
                    attention[head, i, j] = math.exp(logits[j] - top) / total
                    mixed[i, columns] += attention[head, i, j] * v[j]
        tokens = (
            tokens + mixed @ weights[name + "attn.proj.weight"].T + weights[name + "attn.proj.bias"]
        )
        if index in PRUNING.blocks and ratio < 1:
            num_visual = count - K
            scores = []
            for visual in range(num_visual):
                score = 0.0
                for keypoint in range(K):
                    for head in range(heads):
                        score += float(attention[head, keypoint, K + visual]) / heads
                scores.append(score)
            order = sorted(range(num_visual), key=lambda visual: -scores[visual])
            kept = order[: math.ceil(ratio * num_visual)]
            tokens = torch.stack([*tokens[:K], *(tokens[K + visual] for visual in kept)])
            position = torch.stack([position[visual] for visual in kept])
        normed = F.layer_norm(
            tokens, (dim,), weights[name + "norm2.weight"], weights[name + "norm2.bias"]
        )
        hidden = F.gelu(
            normed @ weights[name + "mlp.fc1.weight"].T + weights[name + "mlp.fc1.bias"]
        )
        tokens = (
            tokens + hidden @ weights[name + "mlp.fc2.weight"].T + weights[name + "mlp.fc2.bias"]
        )
    return tokens, position


def relative_error(found: Tensor, wanted: Tensor) -> float:
    return ((found - wanted).abs().max() / wanted.abs().max()).item()


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_every_cycle_agrees_with_the_slow_computation(kind: str) -> None:
    model = small(kind)
    images = torch.randn(2, 3, 48, 32)
    out = CycleWrapper(model).forward_cycles(images, num_cycles=3)
    plain = model(images)
    entered = model.embed(images)
    position = torch.zeros(24, 16) if kind == "learnable" else model.position[0]
    for sample in range(2):
        tokens, kept_position = run_blocks_slowly(model, entered[sample], position, 0.6)
        assert len(tokens) == K + 9  # ceil(0.6 ceil(0.6 * 24))
        for cycle in range(3):
            if cycle:
                tokens, _ = run_blocks_slowly(model, tokens, kept_position, 1.0)
            assert relative_error(out.tokens[cycle][sample], tokens) < 1e-5
        heatmap = model.head(out.tokens[0][sample, :K]).unflatten(-1, (12, 8))
        torch.testing.assert_close(plain[sample], heatmap, rtol=1e-5, atol=1e-6)


def test_counts_of_the_paper() -> None:
    pruning = TokenPruning()
    assert pruning.visual_counts(256) == (256, 180, 126, 89)
    model = create_model("tokenpose_s_v1", pruning=pruning).eval()
    images = torch.randn(1, 3, 256, 192)
    lengths = []
    for block in model.blocks:
        block.register_forward_hook(
            lambda _, args, out: lengths.append((args[0].shape[1], out.shape[1]))
        )
    with torch.no_grad():
        out = CycleWrapper(model).forward_cycles(images, num_cycles=2)
    first = [256, 256, 256, 256, 180, 180, 180, 126, 126, 126, 89, 89, 89]
    wanted = [(17 + a, 17 + b) for a, b in itertools.pairwise(first)]
    assert lengths == wanted + [(106, 106)] * 12
    assert [tokens.shape for tokens in out.tokens] == [(1, 106, 192)] * 2
    macs = count_macs(model, images[:1])
    assert round(macs.without_attention_products / 1e9, 1) == 2.0
    whole = count_macs(create_model("tokenpose_s_v1"), images[:1])
    assert round(whole.without_attention_products / 1e9, 1) == 2.4


def test_schedule() -> None:
    pruning = TokenPruning(keep_ratio=0.7, warmup_epochs=10, anneal_epochs=100)
    assert pruning.ratio_at(0) == pruning.ratio_at(9.9) == pruning.ratio_at(10) == 1
    assert pruning.ratio_at(60) == pytest.approx(0.85)
    assert pruning.ratio_at(35) == pytest.approx(0.7 + 0.3 * (1 + math.cos(math.pi / 4)) / 2)
    assert pruning.ratio_at(110) == pruning.ratio_at(300) == 0.7
    ratios = [pruning.ratio_at(epoch) for epoch in range(10, 111)]
    assert ratios == sorted(ratios, reverse=True)
    assert TokenPruning(warmup_epochs=0, anneal_epochs=0).ratio_at(0) == 0.7


def test_epoch_sets_the_ratio_in_training_alone() -> None:
    model = small(pruning=TokenPruning(blocks=(1, 2), keep_ratio=0.6))
    images = torch.randn(2, 3, 48, 32)

    def visual_tokens() -> int:
        return model.forward_tokens(images).shape[1] - K

    model.train()
    assert visual_tokens() == 9  # nobody has named an epoch
    model.set_epoch(0)
    assert visual_tokens() == 24
    model.set_epoch(60)  # 0.8: ceil(0.8 * ceil(0.8 * 24))
    assert visual_tokens() == 16
    model.set_epoch(200)
    assert visual_tokens() == 9
    model.set_epoch(0)
    model.eval()
    assert visual_tokens() == 9
    unpruned = small(pruning=None).train()
    unpruned.set_epoch(3)
    assert unpruned.keep_ratio() == 1


def test_ratio_one_is_the_plain_model() -> None:
    images = torch.randn(2, 3, 48, 32)
    ones = small(pruning=TokenPruning(blocks=(1, 2), keep_ratio=1.0))
    assert torch.equal(ones(images), small(pruning=None)(images))
    assert ones.state_dict().keys() == small(pruning=None).state_dict().keys()


@torch.no_grad()
def test_early_exit_keeps_the_batch_whole() -> None:
    """The positions of the kept tokens belong to the samples of the whole batch."""
    model = small()
    for parameter in model.backbone.parameters():
        torch.nn.init.normal_(parameter)
    cycled = CycleWrapper(model, 3, "blocks")
    images = torch.rand(4, 3, 48, 32, generator=torch.Generator().manual_seed(2))
    every = cycled.forward_cycles(images, num_cycles=3)
    changes = relative_changes(*every.tokens[:2], 0).sort().values
    found = cycled(images, num_cycles=3, exit_tolerance=float(changes[1:3].mean()))
    assert changes[1] < changes[1:3].mean() < changes[2]
    assert cycled.sample_cycles.tolist() == [3] * 4
    assert torch.equal(found, every.predictions[2])


def test_ordinary_cycles_are_refused() -> None:
    cycled = CycleWrapper(small(), 2, "blocks", batched=False)
    with pytest.raises(ValueError, match="token pruning: expected batched cycles"):
        cycled(torch.rand(2, 3, 48, 32), num_cycles=2)


@pytest.mark.parametrize("kind", KINDS)
@torch.no_grad()
def test_a_sample_does_not_depend_on_its_batch(kind: str) -> None:
    model = small(kind)
    images = torch.randn(4, 3, 48, 32)
    together = CycleWrapper(model).forward_cycles(images, num_cycles=2)
    for sample in range(4):
        alone = CycleWrapper(model).forward_cycles(images[sample : sample + 1], num_cycles=2)
        for cycle in range(2):
            torch.testing.assert_close(alone.tokens[cycle][0], together.tokens[cycle][sample])
    assert not torch.equal(together.tokens[0][0], together.tokens[0][1])


@pytest.mark.parametrize("checkpointing", ["block", "cycle"])
@pytest.mark.parametrize("kind", KINDS)
def test_activation_checkpointing_changes_nothing(kind: str, checkpointing: str) -> None:
    images = torch.randn(3, 3, 48, 32)
    gradients = []
    for option in (None, checkpointing):
        model = small(kind).train()
        cycled = CycleWrapper(model, num_cycles=3, activation_checkpointing=option)
        out = cycled(images)
        assert all(tokens.shape == (3, K + 9, 16) for tokens in out.tokens)
        loss = sum(p.square().mean() for p in out.predictions)
        loss = loss + sum(tokens[:, K:].square().mean() for tokens in out.tokens)
        loss.backward()
        gradients.append({name: p.grad for name, p in model.named_parameters()})
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-5, atol=1e-7)


@torch.no_grad()
def test_recomputation_keeps_the_first_choice() -> None:
    """Scores that come out otherwise the second time must not choose other tokens."""
    model = small()
    block = model.blocks[1]
    for layer in (block.attn.proj, block.mlp.fc2):  # type: ignore[union-attr]
        layer.weight.zero_(), layer.bias.zero_()  # type: ignore[operator, union-attr]
    tokens = torch.randn(2, K + 24, 16)

    def one_pass() -> PruningPass:
        return PruningPass(PRUNING, 0.6, K, tokens, None)

    same = one_pass()
    first = block(tokens, None, same, 1)
    block.attn.qkv.weight[16:32].neg_()  # type: ignore[union-attr, index, operator]
    assert torch.equal(block(tokens, None, same, 1), first)
    assert not torch.equal(block(tokens, None, one_pass(), 1), first)


@pytest.mark.slow
def test_compiled_training_is_the_same() -> None:
    images = torch.randn(2, 3, 48, 32)
    pruning = TokenPruning(blocks=(1,), keep_ratio=0.6)
    models = [small(pruning=pruning, depth=2).train() for _ in range(2)]
    eager, cycled = (CycleWrapper(model, num_cycles=2) for model in models)
    outputs = torch.compile(cycled, backend="aot_eager")(images), eager(images)
    for found, expected in zip(*([*o.predictions, *o.tokens] for o in outputs), strict=True):
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5)
    for output in outputs:
        sum(p.square().mean() for p in output.predictions).backward()
    for a, b in zip(cycled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, rtol=1e-3, atol=1e-5)


def test_gradients_reach_everything() -> None:
    cycled = CycleWrapper(small("learnable").train(), num_cycles=2)
    out = cycled(torch.randn(2, 3, 48, 32))
    sum(prediction.square().mean() for prediction in out.predictions).backward()
    for name, parameter in cycled.plain.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


def test_copies_and_bfloat16() -> None:
    model = copy.deepcopy(small())
    images = torch.randn(2, 3, 48, 32)
    assert torch.equal(model(images), small()(images))
    with torch.autocast("cpu", torch.bfloat16):
        assert model(images).isfinite().all()


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="ascending"):
        TokenPruning(blocks=(3, 3))
    with pytest.raises(ValueError, match="ascending"):
        TokenPruning(blocks=())
    with pytest.raises(ValueError, match="keep_ratio"):
        TokenPruning(keep_ratio=0)
    with pytest.raises(ValueError, match="warmup_epochs"):
        TokenPruning(warmup_epochs=-1)
    with pytest.raises(ValueError, match="names block 9, but depth=4"):
        small(pruning=TokenPruning())


def test_pruning_at_block_0() -> None:
    """Block 0 adds no position, but the positions must follow its choice."""
    model = small(pruning=TokenPruning(blocks=(0,), keep_ratio=0.5))
    with torch.no_grad():
        out = CycleWrapper(model).forward_cycles(torch.randn(1, 3, 48, 32), num_cycles=2)
    assert out.tokens[1].shape == (1, K + 12, 16)
