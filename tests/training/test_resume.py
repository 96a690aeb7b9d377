"""Stop anywhere and continue: the log is the uninterrupted run's, bit by bit."""

from __future__ import annotations

import json
import random
import resource
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from cycledistill.training import CheckpointError, fit, load_weights, read_log


class Crash(Exception):
    pass


def crash_at(toy: Any, calls: int) -> Any:
    def forward_loss(model: Any, criterion: Any, batch: Any) -> Any:
        nonlocal calls
        calls -= 1
        if calls < 0:
            raise Crash
        return toy.forward_loss(model, criterion, batch)

    return forward_loss


@pytest.fixture(scope="module")
def uninterrupted(toy: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("uninterrupted")
    result = toy.train(toy.default_config(folder))
    return folder, result


def same_weights(one: Any, two: Any) -> bool:
    first, second = dict(one.named_parameters()), dict(two.named_parameters())
    return first.keys() == second.keys() and all(first[n].equal(second[n]) for n in first)


@pytest.mark.parametrize(
    ("crashes", "changes"),
    [
        ([0], {}),
        ([5, 5], {}),  # right after an epoch
        ([3, 3, 3, 3], {"checkpoint_every_steps": 1}),
        ([7, 4], {"checkpoint_every_steps": 2}),
        ([9], {"checkpoint_every_steps": 2, "num_workers": 2}),
    ],
)
def test_crash_and_resume(
    toy: Any, uninterrupted: Any, tmp_path: Path, crashes: list[int], changes: dict[str, Any]
) -> None:
    config = toy.default_config(tmp_path, **changes)
    for calls in crashes:
        with pytest.raises(Crash):
            toy.train(config, forward_loss=crash_at(toy, calls))
    result = toy.train(config)
    folder, reference = uninterrupted
    assert toy.losses(tmp_path) == toy.losses(folder)
    assert same_weights(result.model, reference.model)
    assert result.metrics == reference.metrics
    assert result.best is not None and reference.best is not None
    assert result.best[:4] == reference.best[:4]


@pytest.mark.parametrize(
    "options",
    [
        {"accumulate": 2, "repeated_augmentation": 3},
        {"ema_decay": None, "clip_grad_norm": None, "log_every": 4},
        {"mixed_precision": "bf16"},
    ],
)
def test_crash_and_resume_with_other_options(
    toy: Any, tmp_path: Path, options: dict[str, Any]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    reference = toy.train(toy.default_config(whole, **options))
    config = toy.default_config(parts, checkpoint_every_steps=3, **options)
    with pytest.raises(Crash):
        toy.train(config, forward_loss=crash_at(toy, 10))
    result = toy.train(config)
    assert toy.losses(parts) == toy.losses(whole)
    assert same_weights(result.model, reference.model)


@pytest.mark.slow
def test_killed_at_random_moments(runner: Any, toy: Any, tmp_path: Path) -> None:
    options = {"epochs": 16, "checkpoint_every_steps": 1, "keep_checkpoints": 3}
    train_options = {"size": 40}
    arguments = ("--options", options, "--train-options", train_options)
    codes, output = runner(tmp_path / "whole", *arguments)
    assert codes == [0], output
    moments = random.Random(0)
    steps_at_kill = [0]
    for number in range(10):
        request: dict[str, Any] = {"signal": signal.SIGKILL, "after": moments.uniform(0.0, 0.1)}
        if number % 2:  # however busy the machine is, some steps further
            request["wait_for"] = f"step {steps_at_kill[-1] + moments.randint(1, 7)}/80 "
        codes, output = runner(tmp_path / "parts", *arguments, "--pause", 0.025, **request)
        assert codes == [-signal.SIGKILL], output
        log = tmp_path / "parts" / "log.jsonl"
        steps_at_kill.append(log.read_text().count('"train"') if log.exists() else 0)
    codes, output = runner(tmp_path / "parts", *arguments)
    assert codes == [0], output
    assert len(set(steps_at_kill)) >= 5, steps_at_kill
    assert toy.losses(tmp_path / "parts") == toy.losses(tmp_path / "whole")


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("moment", ["training", "evaluation"])
def test_asked_to_stop(
    runner: Any, toy: Any, uninterrupted: Any, tmp_path: Path, number: int, code: int, moment: str
) -> None:
    options = {"checkpoint_every": 3}
    pauses = {
        "training": (("--pause", 0.05), "step 3/15"),
        "evaluation": (("--evaluation-pause", 30), "evaluating"),
    }
    pause, text = pauses[moment]
    codes, output = runner(
        tmp_path, "--options", options, *pause, signal=number, wait_for=text, after=0.0
    )
    assert codes == [code], output
    assert "Traceback" not in output
    assert "checkpoint saved in" in output and "the same command continues" in output
    codes, output = runner(tmp_path, "--options", options)
    assert codes == [0] and "continuing from" in output, output
    assert toy.losses(tmp_path) == toy.losses(uninterrupted[0])


def test_second_ctrl_c_ends_at_once(runner: Any, tmp_path: Path) -> None:
    codes, output = runner(
        tmp_path, "--pause", 40, signal=signal.SIGINT, wait_for="output", after=0.3, times=2
    )
    assert codes == [130], output
    assert "Traceback" not in output and "checkpoint saved" not in output


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_terminal_stops_data_workers_too(
    runner: Any, toy: Any, uninterrupted: Any, tmp_path: Path, number: int
) -> None:
    """Ctrl-C and batch systems send the signal to the workers as well."""
    options = {"num_workers": 2}
    codes, output = runner(
        tmp_path,
        *("--options", options, "--pause", 0.05),
        signal=number,
        wait_for="step 3/15",
        group=True,
    )
    assert codes == [128 + number], output
    assert "Traceback" not in output and "checkpoint saved in" in output
    codes, output = runner(tmp_path, "--options", options)
    assert codes == [0], output
    assert toy.losses(tmp_path) == toy.losses(uninterrupted[0])


def test_two_processes_asked_to_stop_and_continued(runner: Any, toy: Any, tmp_path: Path) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    codes, output = runner(whole, ranks=2)
    assert codes == [0, 0], output
    codes, output = runner(
        parts, "--pause", 0.05, ranks=2, signal=signal.SIGTERM, wait_for="step 3/15"
    )
    assert codes == [143, 143], output
    codes, output = runner(parts, ranks=2)
    assert codes == [0, 0], output
    assert toy.losses(parts) == toy.losses(whole)


def test_one_process_asked_to_stop_while_evaluating(runner: Any, toy: Any, tmp_path: Path) -> None:
    """A scheduler may signal one process alone; they stop together, after the next step."""
    codes, output = runner(
        tmp_path,
        *("--evaluation-pause", 1.5),
        ranks=2,
        signal=signal.SIGTERM,
        wait_for="evaluating",
        only=0,
    )
    assert codes == [143, 143], output
    assert "stopped by SIGTERM after step 6" in output
    assert "checkpoint saved in" in output and "Traceback" not in output
    assert [r["step"] for r in toy.losses(tmp_path) if r["event"] == "train"] == [*range(1, 7)]


def test_continue_a_finished_run_and_extend_it(toy: Any, tmp_path: Path, capsys: Any) -> None:
    config = toy.default_config(tmp_path, epochs=2)
    first = toy.train(config)
    log = (tmp_path / "log.jsonl").read_bytes()
    again = toy.train(config)
    assert "(10 steps done, which is all)" in capsys.readouterr().out
    assert (tmp_path / "log.jsonl").read_bytes() == log
    assert again.metrics == first.metrics and again.best == first.best
    assert same_weights(again.model, first.model)
    with pytest.raises(ValueError, match=r"settings differ: epochs \(2 then, 3 now\)"):
        toy.train(toy.default_config(tmp_path, epochs=3))
    longer = toy.train(toy.default_config(tmp_path, epochs=3, allow_changes=True))
    assert longer.steps == 15


def test_weight_decay_may_change(toy: Any, tmp_path: Path) -> None:
    """A checkpoint of the optimiser has one, too."""
    made = []

    def optimizer(parameters: Any, lr: float) -> Any:
        made.append(torch.optim.AdamW(parameters, lr=lr, weight_decay=0.1 * len(made)))
        return made[-1]

    toy.train(toy.default_config(tmp_path, epochs=1), optimizer=optimizer)
    changed = toy.default_config(tmp_path, epochs=2, allow_changes=True)
    toy.train(changed, optimizer=optimizer)
    assert [found.param_groups[0]["weight_decay"] for found in made] == [0.0, 0.1]
    assert made[1].state[made[1].param_groups[0]["params"][0]]["step"] == 10


def test_an_optimiser_whose_step_changes_weights_at_any_rate(toy: Any, tmp_path: Path) -> None:
    """Torch makes a step of rate 0 when it loads a state."""

    class Decaying(torch.optim.SGD):
        @torch.no_grad()
        def step(self, closure: Any = None) -> None:  # type: ignore[override]
            super().step()
            for parameter in self.param_groups[0]["params"]:
                parameter.mul_(0.99)

    def optimizer(parameters: Any, lr: float) -> Any:
        return Decaying(parameters, lr=lr, momentum=0.9)

    whole = toy.train(toy.default_config(tmp_path / "a", epochs=2), optimizer=optimizer)
    first = str(tmp_path / "a" / "checkpoints" / "step-00000005")
    config = toy.default_config(tmp_path / "b", epochs=2, resume=first)
    assert same_weights(toy.train(config, optimizer=optimizer).model, whole.model)


@pytest.mark.parametrize("kind", ["torch", "function"])
def test_another_learning_rate(toy: Any, tmp_path: Path, kind: str) -> None:
    """A function of the step takes it; the state of a torch scheduler has the former one."""

    def train(rate: float, **options: Any) -> Any:
        model, criterion = toy.parts()
        optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=rate)
        step_lr = torch.optim.lr_scheduler.StepLR(optimizer, 100)
        fit(
            toy.default_config(tmp_path, lr=rate, allow_changes=True, **options),
            model=model,
            criterion=criterion,
            optimizer=optimizer,
            train_dataset=toy.Points(),
            forward_loss=toy.forward_loss,
            schedule=step_lr if kind == "torch" else lambda step: 1.0,
        )
        return optimizer.param_groups[0]["lr"]

    assert train(0.1, epochs=1) == train(0.1, epochs=2) == 0.1
    if kind == "function":
        assert train(0.02, epochs=3) == 0.02
        return
    with pytest.raises(ValueError, match=r"for learning rates of \[0.1\], got \[0.02\]: a torch"):
        train(0.02, epochs=3)


def test_classes_that_changed_in_between(toy: Any, tmp_path: Path) -> None:
    """A renamed class folder gives its images another label; their number stays the same."""
    config = toy.default_config(tmp_path, epochs=2)
    toy.train(config, settings={"classes": ("cat", "dog")})
    with pytest.raises(
        ValueError, match=r"differ: classes \(\['cat', 'dog'\] then, \['a dog', 'cat'\] now\)"
    ):
        toy.train(config, settings={"classes": ("a dog", "cat")})
    assert toy.train(config, settings={"classes": ("cat", "dog")}).steps == 10


def test_of_many_classes_those_that_changed_are_named(toy: Any, tmp_path: Path) -> None:
    config, names = toy.default_config(tmp_path, epochs=1), [f"kind {n}" for n in range(100)]
    toy.train(config, settings={"classes": names})
    with pytest.raises(ValueError, match=r"classes \(\['kind 99'\] then, \['zebra'\] now\)"):
        toy.train(config, settings={"classes": [*names[:-1], "zebra"]})


def test_resume_from_another_folder(toy: Any, uninterrupted: Any, tmp_path: Path) -> None:
    folder, reference = uninterrupted
    checkpoint = folder / "checkpoints" / "step-00000010"
    result = toy.train(toy.default_config(tmp_path, resume=str(checkpoint)))
    assert toy.losses(tmp_path) == toy.losses(folder)
    assert result.best == reference.best and result.best.checkpoint.is_dir()
    assert same_weights(result.model, reference.model)


def test_resume_never_and_nowhere(toy: Any, uninterrupted: Any, tmp_path: Path) -> None:
    folder, _ = uninterrupted
    with pytest.raises(ValueError, match=r"has a run already \(15 steps done\)"):
        toy.train(toy.default_config(folder, resume="never"))
    with pytest.raises(FileNotFoundError, match="there is no checkpoint there"):
        toy.train(toy.default_config(tmp_path, resume=str(tmp_path / "elsewhere")))
    with pytest.raises(ValueError, match=r"training samples \(37 then, 36 now\)"):
        toy.train(toy.default_config(folder), size=36)


@pytest.mark.parametrize("damage", ["bit", "truncated", "no meta", "empty folder"])
def test_broken_newest_falls_back(
    toy: Any, uninterrupted: Any, tmp_path: Path, damage: str
) -> None:
    config = toy.default_config(tmp_path, checkpoint_every_steps=2)
    with pytest.raises(Crash):
        toy.train(config, forward_loss=crash_at(toy, 9))
    newest = tmp_path / "checkpoints" / "step-00000008"
    state = newest / "state.pt"
    if damage == "bit":
        content = bytearray(state.read_bytes())
        content[len(content) // 2] ^= 1
        state.write_bytes(content)
    elif damage == "truncated":
        state.write_bytes(state.read_bytes()[:-100])
    else:
        (newest / "meta.json").unlink()
        if damage == "empty folder":
            state.unlink()
    with (
        pytest.warns(UserWarning, match=r"step-00000008 is broken.*trying the one before"),
        pytest.warns(UserWarning, match="set aside: .*superseded-step-00000008"),
    ):
        toy.train(config)
    assert toy.losses(tmp_path) == toy.losses(uninterrupted[0])


def test_going_back_to_an_earlier_checkpoint(toy: Any, tmp_path: Path) -> None:
    """What the abandoned way left behind is not taken up later by mistake."""
    config = toy.default_config(tmp_path, keep_checkpoints=5, evaluate_every=3)
    toy.train(config)
    whole = toy.losses(tmp_path)
    earlier = tmp_path / "checkpoints" / "step-00000005"
    back = toy.default_config(tmp_path, keep_checkpoints=5, evaluate_every=3, resume=str(earlier))
    with (
        pytest.raises(Crash),
        pytest.warns(UserWarning, match="set aside: .*superseded-step-00000015"),
    ):
        toy.train(back, forward_loss=crash_at(toy, 3))
    assert [r["step"] for r in toy.losses(tmp_path) if r["event"] == "train"] == [*range(1, 9)]
    toy.train(config)
    assert toy.losses(tmp_path) == whole


def test_all_broken(toy: Any, tmp_path: Path) -> None:
    toy.train(toy.default_config(tmp_path, epochs=1))
    for state in tmp_path.glob("checkpoints/*/state.pt"):
        state.write_bytes(b"")
    with (
        pytest.warns(UserWarning, match="is broken"),
        pytest.raises(CheckpointError, match=r"all checkpoints in .* are broken"),
    ):
        toy.train(toy.default_config(tmp_path, epochs=1))


@pytest.mark.parametrize("room", [4000, 8000])
def test_full_disk(toy: Any, uninterrupted: Any, tmp_path: Path, room: int) -> None:
    """No file may become larger than some bytes: the log fits, a checkpoint does not."""
    config = toy.default_config(tmp_path)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def full(epoch: int) -> None:
        if epoch == 1:
            resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))

    try:
        with pytest.raises(CheckpointError, match=r"MiB free: .*step-00000005 is intact"):
            toy.train(config, before_epoch=[full])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-00000005"]
    toy.train(config)
    assert toy.losses(tmp_path) == toy.losses(uninterrupted[0])


def test_a_state_that_could_not_be_loaded_is_refused(toy: Any, tmp_path: Path) -> None:
    """When it is saved, and not when the run is to continue."""
    model, criterion = toy.parts()
    optimizer = torch.optim.SGD([*model.parameters(), *criterion.parameters()], lr=0.1)
    schedule = torch.optim.lr_scheduler.ConstantLR(optimizer)
    schedule.reason = Crash()
    with pytest.raises(TypeError, match="holds more than tensors, numbers, texts, lists"):
        fit(
            toy.default_config(tmp_path),
            model=model,
            criterion=criterion,
            optimizer=optimizer,
            train_dataset=toy.Points(),
            forward_loss=toy.forward_loss,
            schedule=schedule,
        )
    assert not list((tmp_path / "checkpoints").iterdir())


def test_last_and_best_are_kept(toy: Any, tmp_path: Path) -> None:
    scores = iter([0.1, 0.9, 0.3, 0.2, float("nan")])
    model_at_best = {}

    def evaluate(model: Any) -> dict[str, float]:
        score = next(scores)
        if score == 0.9:
            model_at_best.update({n: p.clone() for n, p in model.named_parameters()})
        return {"score": score}

    config = toy.default_config(tmp_path, epochs=5, keep_checkpoints=2, checkpoint_every=3)
    result = toy.train(config, evaluate=evaluate, best_metric="score")
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000015", "step-00000025"]
    assert result.best is not None
    assert result.best[:4] == ("score", 0.9, 1, 10)
    assert result.last_checkpoint.name == "step-00000025"
    load_weights(result.best.checkpoint, result.model)
    for name, parameter in result.model.named_parameters():
        assert parameter.equal(model_at_best[name])
    meta = json.loads((result.best.checkpoint / "meta.json").read_text())
    assert meta["step"] == 10 and meta["epochs_done"] == 2
    evaluations = [r for r in read_log(tmp_path / "log.jsonl") if r["event"] == "evaluate"]
    assert [r["score"] for r in evaluations] == [0.1, 0.9, 0.3, 0.2, None]


def test_the_best_value_is_known_without_the_log(toy: Any, tmp_path: Path) -> None:
    """What was best, and what was measured last, stands in the checkpoint."""

    def scored(*scores: float) -> Any:
        left = list(scores)
        return {"evaluate": lambda model: {"score": left.pop(0)}, "best_metric": "score"}

    config = toy.default_config(tmp_path, epochs=5, keep_checkpoints=1)
    with pytest.raises(Crash):
        toy.train(config, forward_loss=crash_at(toy, 17), **scored(0.1, 0.9, 0.3))
    (tmp_path / "log.jsonl").unlink()
    result = toy.train(config, **scored(0.5, 0.2))  # the third evaluation is not done again
    assert result.best is not None and result.best[:4] == ("score", 0.9, 1, 10)
    assert result.metrics == {"score": 0.2}
    kept = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert kept == ["step-00000010", "step-00000025"]
    again = toy.train(config, **scored())
    assert again.best == result.best and again.metrics == result.metrics
    longer = toy.default_config(tmp_path, epochs=6, keep_checkpoints=1, allow_changes=True)
    assert toy.train(longer, **scored(0.7)).best == result.best


def test_killed_between_an_evaluation_and_its_note(toy: Any, tmp_path: Path) -> None:
    """The log has it, the checkpoint does not: it is done again, and stands in the log once."""
    config = toy.default_config(tmp_path)
    with pytest.raises(Crash):
        toy.train(config, forward_loss=crash_at(toy, 10))
    whole = toy.losses(tmp_path)
    assert [r["step"] for r in whole if r["event"] == "evaluate"] == [5, 10]
    path = tmp_path / "checkpoints" / "step-00000010" / "meta.json"
    before = tmp_path / "checkpoints" / "step-00000005" / "meta.json"
    known = json.loads(before.read_text())
    path.write_text(json.dumps({**json.loads(path.read_text()), "evaluation": known["evaluation"]}))
    with pytest.raises(Crash):
        toy.train(config, forward_loss=crash_at(toy, 0))
    assert toy.losses(tmp_path) == whole
