"""The tail called once for each cycle: for models whose tail cannot take all cycles at once."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import timm
import torch
from torch import Tensor, nn

from cycledistill import CycleWrapper
from tests.core.models import BatchNormHead, Block, LoopModel, OwnCheckpoints
from tests.core.reference import (
    HandFed,
    assert_same,
    assert_same_gradients,
    equation_4,
    gradients,
    hand_fed,
    loss_of,
)
from tests.core.zoo import HUGGING_FACE_SIZES, ZOO, Case, Inputs, image, words


def check(case: Case, num_cycles: int = 2, **options: Any) -> CycleWrapper:
    """Predictions, tokens and gradients are those of cycles by hand."""
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, num_cycles, case.blocks, head_per_cycle=True, **options)
    args, kwargs = case.batch()
    out = cycled(*args, **kwargs)
    fed = hand_fed(plain, cycled.stack_path, num_cycles, args, kwargs)
    assert cycled.cycles_run == num_cycles
    assert_same(out.tokens, tuple(fed.tokens))
    assert_same(out.predictions, tuple(fed.predictions))
    loss_of(out).backward()
    equation_4(fed).backward()
    assert_same_gradients(model, gradients(plain))
    return cycled


@pytest.mark.parametrize("case", ZOO.values(), ids=ZOO.keys())
def test_the_zoo(case: Case) -> None:
    cycled = check(Case(case.make, case.inputs, case.path, case.blocks, case.batch_dim))
    model = cycled.model
    plain = case.build().eval()
    plain.load_state_dict(model.state_dict())
    args, kwargs = case.batch()
    out = cycled.eval().forward_cycles(*args, num_cycles=3, **kwargs)
    with torch.no_grad():
        fed = hand_fed(plain, cycled.stack_path, 3, args, kwargs)
    assert_same([p for p in out.predictions], fed.predictions)
    assert_same(cycled(*args, num_cycles=3, **kwargs), fed.predictions[2])
    assert cycled.unwrap() is model
    assert not any("forward" in vars(module) for module in model.modules())


class Residual(nn.Module):
    """Adds the stack's input to its output."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Linear(16, 16)
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        return x + self.blocks(x)


class OwnQuery(nn.Module):
    """Puts one query for each sample of the input before the tokens that left the stack."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.Sequential(*(Block() for _ in range(3)))
        self.query = nn.Parameter(torch.randn(1, 1, 16))
        self.last = Block()

    def forward(self, x: Tensor) -> Tensor:
        batch = x.shape[0]
        x = self.blocks(x)
        return self.last(torch.cat([self.query.expand(batch, -1, -1), x], 1))[:, 0]


def hugging_face(name: str, **config: Any) -> nn.Module:
    import transformers

    cls = getattr(transformers, name)
    tokens = {"bos_token_id": 1, "eos_token_id": 49, "pad_token_id": 0, "vocab_size": 50}
    return cls(cls.config_class(**{**tokens, **config}))


def ended_words(size: int) -> Inputs:
    (ids,), kwargs = words(size)
    ids = ids.clamp(2, 48)
    ids[:, -1] = 49
    return (ids,), kwargs


def uncached(size: int) -> Inputs:
    args, kwargs = ended_words(size)
    return args, {**kwargs, "use_cache": False}


def patches(size: int) -> Inputs:
    rows, columns = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    places = torch.stack([rows, columns], -1).reshape(1, 16, 2)
    valid = torch.ones(size, 16, dtype=torch.bool)
    valid[0, 12:] = False
    made = torch.randn(size, 16, 192, dtype=torch.float64)
    return (
        {"patches": made, "patch_coord": places.expand(size, -1, -1), "patch_valid": valid},
    ), {}


def sequence(size: int) -> Inputs:
    return (torch.randn(size, 6, 16, dtype=torch.float64),), {}


def staged(name: str, stage: str, **kwargs: Any) -> Case:
    return Case(lambda: timm.create_model(name, num_classes=5, **kwargs), image, stage, stage)


GPT2 = {"n_embd": 16, "n_layer": 3, "n_head": 2, "resid_pdrop": 0.0}
ONLY_SO: dict[str, Case] = {
    "residual": Case(Residual, sequence),
    "own-query": Case(OwnQuery, sequence),
    "batch-norm": Case(BatchNormHead, sequence),
    "centred": Case(lambda: LoopModel(lambda y, x: y - y.mean(0)), sequence),
    "scalar": Case(lambda: LoopModel(lambda y, x: {"y": y, "loss": x.square().mean()}), sequence),
    "naflexvit-masked": Case(ZOO["naflexvit"].make, patches),
    "hf-clip-text": Case(
        lambda: hugging_face("CLIPTextModel", **HUGGING_FACE_SIZES), ended_words, None
    ),
    "hf-gpt2-classifier": Case(
        lambda: hugging_face("GPT2ForSequenceClassification", num_labels=3, **GPT2), uncached, None
    ),
    "pvt_v2": staged(
        "pvt_v2_b1", "stages.1.blocks", embed_dims=(8, 16, 40, 64), depths=(1, 3, 1, 1)
    ),
    "pit": staged(
        "pit_ti_224",
        "transformers.1.blocks",
        img_size=32,
        patch_size=8,
        stride=4,
        base_dims=(8, 8, 8),
        depth=(1, 2, 1),
        heads=(1, 2, 2),
    ),
    "coat": staged("coat_lite_tiny", "serial_blocks3", img_size=32),
    "twins": staged("twins_pcpvt_small", "blocks.2.1:", img_size=32),
    "mobilevit": staged("mobilevit_xxs", "stages.3.1.transformer"),
}


@pytest.mark.parametrize("case", ONLY_SO.values(), ids=ONLY_SO.keys())
def test_models_that_go_only_so(case: Case) -> None:
    folded = CycleWrapper(case.build(), 2, case.blocks)
    args, kwargs = case.batch()
    with pytest.raises((RuntimeError, ValueError), match=r"head_per_cycle=True"):
        folded(*args, **kwargs)
    check(case, 3)


@pytest.mark.parametrize(
    "options",
    [
        {"activation_checkpointing": "block"},
        {"activation_checkpointing": "cycle"},
        {"check_finite": True},
        {"min_cycles": 2},
    ],
    ids=str,
)
@pytest.mark.parametrize("name", ["residual", "hf-gpt2-classifier"])
def test_with_other_options(name: str, options: dict[str, Any]) -> None:
    check(ONLY_SO[name], **options)


def test_with_options_that_change_the_tokens() -> None:
    """Residual adds the stem's tokens, which only this mode can."""
    torch.manual_seed(0)
    model = Residual().double()
    plain = copy.deepcopy(model)
    options = {"input_injection": 0.5, "grad_cycles": 1, "cycle_embedding": True}
    cycled = CycleWrapper(model, 3, head_per_cycle=True, **options).double()
    (x,), _ = sequence(2)
    out = cycled(x)
    entered = plain.stem(x)
    tokens = [plain.blocks(entered)]
    for _ in range(2):
        tokens.append(plain.blocks(tokens[-1].detach() + 0.5 * entered))
    assert_same(out.tokens, tuple(tokens))
    assert_same(out.predictions, tuple(entered + t for t in tokens))
    loss_of(out).backward()
    equation_4(HandFed([entered + t for t in tokens], tokens)).backward()
    assert_same_gradients(model, gradients(plain))
    assert cycled.teacher_state_dict()["embedding"].shape == (2, 16)
    assert dict(cycled.named_parameters())["cycle_teacher.embedding"].grad is not None


def test_hidden_states_are_each_cycles_own() -> None:
    case = ZOO["hf-vit"]
    model = case.build()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, head_per_cycle=True)
    _, kwargs = case.batch()
    out = cycled(output_hidden_states=True, **kwargs)
    first = plain(output_hidden_states=True, **kwargs)
    assert_same(out.predictions[0], first)
    for prediction, before, after in zip(
        out.predictions[1:], out.tokens[:-1], out.tokens[1:], strict=True
    ):
        assert len(prediction.hidden_states) == 4
        states = [before]
        for block in plain.vit.layers if hasattr(plain.vit, "layers") else plain.vit.encoder.layer:
            states.append(block(states[-1]))
        assert_same(tuple(prediction.hidden_states[1:3]), tuple(states[1:3]))
        assert_same(after, states[3])


def test_labels_are_welcome() -> None:
    """Every cycle's samples stand alone, so a model may compute its own loss of each."""
    case = ZOO["hf-vit"]
    _, kwargs = case.batch()
    labels = torch.tensor([1, 3])
    out = CycleWrapper(case.build(), 2, head_per_cycle=True)(labels=labels, **kwargs)
    for prediction in out.predictions:
        expected = nn.functional.cross_entropy(prediction.logits, labels)
        torch.testing.assert_close(prediction.loss, expected)


@pytest.mark.parametrize("momentum", [0.1, None])
def test_batch_norms_before_the_stack_count_a_batch_once(momentum: float | None) -> None:
    class Model(BatchNormHead):
        def __init__(self) -> None:
            super().__init__()
            self.first = nn.BatchNorm1d(6, momentum=momentum)
            self.bn.momentum = momentum

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(self.first(x))

    torch.manual_seed(0)
    model = Model().double()
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 3, head_per_cycle=True)
    for seed in range(2):
        torch.manual_seed(seed)
        (x,), _ = sequence(4)
        out = cycled(x)
        t = plain.first(x)
        expected = []
        for _ in range(3):
            t = plain.blocks(t)
            expected.append(plain.head(plain.bn(t.mean(1))))
        assert_same(out.predictions, tuple(expected))
    for (name, got), wanted in zip(model.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(got, wanted, msg=name)
    assert model.first.num_batches_tracked == 2
    assert model.first.track_running_stats and model.bn.track_running_stats


def test_models_that_checkpoint_their_blocks() -> None:
    segments = [(0, 1), (1, 2), (2, 4)]
    torch.manual_seed(0)
    model = OwnCheckpoints(segments, reentrant=False).double()
    plain = OwnCheckpoints([], reentrant=False).double()
    plain.load_state_dict(model.state_dict())
    inputs = (sequence(2)[0][0].requires_grad_(), torch.zeros(6, 6, dtype=torch.float64))
    out = CycleWrapper(model, 3, head_per_cycle=True)(*inputs)
    loss_of(out).backward()
    equation_4(hand_fed(plain, "blocks", 3, inputs, {})).backward()
    assert_same_gradients(model, gradients(plain))

    cycled = CycleWrapper(OwnCheckpoints(segments, reentrant=True).double(), 2, head_per_cycle=True)
    with pytest.raises(RuntimeError, match=r"head_per_cycle=True cannot.*use_reentrant=False"):
        cycled(*inputs)
    assert cycled(*inputs, num_cycles=1).predictions[0].shape == (2, 6, 5)


def test_a_stack_that_runs_twice_is_refused_here_too() -> None:
    class Twice(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.Sequential(Block(), Block())

        def forward(self, x: Tensor) -> Tensor:
            return self.blocks(self.blocks(x))

    with pytest.raises(ValueError, match=r"block 0 \(Block\) ran again"):
        CycleWrapper(Twice(), 2, head_per_cycle=True)(torch.randn(2, 6, 16))


def test_an_error_in_the_tail_leaves_the_blocks_running() -> None:
    calls: list[int] = []

    def head(y: Tensor, x: Tensor) -> Tensor:
        calls.append(1)
        if len(calls) == 2:
            raise KeyError("second cycle")
        return y

    model = LoopModel(head)
    plain = copy.deepcopy(model)
    cycled = CycleWrapper(model, 2, head_per_cycle=True)
    x = torch.randn(2, 6, 16)
    with pytest.raises(KeyError, match=r"second cycle"):
        cycled(x)
    assert_same(model(x), plain(x), tolerance=0)
    assert len(cycled(x).predictions) == 2
