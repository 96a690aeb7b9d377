"""Command lines, YAML files and what is printed."""

from __future__ import annotations

import dataclasses
import io
import random
import resource
import sys
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from rich.console import Console

from cycledistill.training import (
    TrainConfig,
    TrainingError,
    draw_curves,
    find_trained,
    free,
    parse_cli,
    read_log,
    run_cli,
    save_config,
)
from cycledistill.training._curves import curves_figure
from cycledistill.training._log import RunLog, window_means
from cycledistill.training._progress import Reporter
from cycledistill.training._sampler import GlobalOrder


@dataclasses.dataclass
class Model:
    """A part of a config."""

    width: int = 8
    """Channels of a token."""

    flip: bool = True
    """Whether to flip."""


@dataclasses.dataclass
class Config(TrainConfig):
    """Train something.

    More about it.
    """

    data_root: Path | None = free(None)
    """Folder of the images (default: made on the spot)."""

    mode: Literal["plain", "no"] = "plain"
    """Kind of training (paper, table 9)."""

    model: Model = dataclasses.field(default_factory=Model)
    """The model."""

    milestones: tuple[int, ...] = (200, 260)
    """Epochs at which the rate drops (paper, section 4.1.2). At each of them it is
    divided by ten."""


PRESETS = {"paper": Config(), "demo": Config(epochs=3, lr=0.01, model=Model(width=4))}


def test_same_first_weights_each_time() -> None:
    def drawn(seed: str) -> tuple[float, float, float]:
        parse("--seed", seed)
        return random.random(), float(np.random.rand()), float(torch.rand(()))

    assert drawn("3") == drawn("3")
    assert not set(drawn("3")) & set(drawn("4"))


def parse(*args: str) -> Config:
    return parse_cli(Config, PRESETS, default="demo", args=args)


def test_presets_files_and_flags(tmp_path: Path) -> None:
    assert parse() == PRESETS["demo"]
    assert parse("--preset", "paper") == Config()
    file = tmp_path / "options.yaml"
    file.write_text(
        "epochs: 7\nlr: 1e-2\nmixed_precision: no\nmode: no\ndrop_last: false\n"
        "clip_grad_norm: null\ndata_root: 010\n"
        "model: {width: 5, flip: False}\nmilestones: [1, 2, 3]\ntrackers: []\n"
    )
    config = parse("--config", str(file), "--epochs", "9", "--model.width=6")
    assert config == Config(
        epochs=9,
        lr=0.01,
        mixed_precision="no",
        mode="no",
        drop_last=False,
        data_root=Path("010"),
        model=Model(6, False),
        milestones=(1, 2, 3),
    )
    assert parse_cli(Config, args=["--debug", "--data-root", "x"]).data_root == Path("x")


def test_help_is_broken_where_the_terminal_ends(
    capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    with pytest.raises(SystemExit):
        parse("--help")
    text = "(paper, section 4.1.2). At each of them it is divided by ten. (default: 200 260)"
    assert text in capsys.readouterr().out


@pytest.mark.parametrize("preset", ["paper", "demo"])
def test_saved_config_gives_the_same_run(tmp_path: Path, preset: str) -> None:
    config = parse(
        "--preset", preset, "--trackers", "tensorboard", "--output-dir", "a b", "--ema-decay", "0.9"
    )
    save_config(config, tmp_path / "config.yaml")
    assert parse("--config", str(tmp_path / "config.yaml")) == config


def test_encodings_of_files(tmp_path: Path) -> None:
    """Windows writes UTF-16 with a byte order mark; what is neither is told with its name."""
    file = tmp_path / "options.yaml"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        file.write_bytes("output_dir: läufe\n".encode(encoding))
        assert parse("--config", str(file)).output_dir == Path("läufe")
    file.write_bytes("output_dir: läufe\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"options\.yaml is no YAML: unacceptable character"):
        parse("--config", str(file))


@pytest.mark.parametrize(
    ("content", "message"),
    [("mode:\tplain", "no YAML: while scanning"), ("- mode", "must hold a mapping from options")],
)
def test_the_broken_options_of_an_earlier_run_are_named(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "config.yaml").write_text(content)
    with pytest.raises(ValueError, match=rf"config\.yaml .*{message}"):
        find_trained(tmp_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("epoch: 3", "there is no option epoch; did you mean epochs?"),
        ("model: {wdth: 3}", "there is no option model.wdth; did you mean width?"),
        ("- 1", "must hold a mapping from options to values"),
        ("a: [", "is no YAML: while parsing"),
        ("epochs: 3\nmodel: {width: 3, width: 4}", "is no YAML: it has width twice"),
        ("drop_last: maybe", "drop_last must be true or false, got 'maybe'"),
    ],
)
def test_bad_files(tmp_path: Path, content: str, message: str) -> None:
    file = tmp_path / "options.yaml"
    file.write_text(content)
    with pytest.raises(ValueError) as caught:
        parse("--config", str(file))
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_bad_values(tmp_path: Path, capsys: Any) -> None:
    file = tmp_path / "options.yaml"
    file.write_text("epochs: many")
    with pytest.raises(SystemExit) as caught:
        parse("--config", str(file))
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert "many" in error and f"error: {file} has wrong values" in error
    with pytest.raises(FileNotFoundError, match="there is no config file nowhere"):
        parse("--config", "nowhere")
    with pytest.raises(ValueError, match="no preset 'x'; choose from paper, demo"):
        parse("--preset", "x")
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        parse("--epochs", "0")
    with pytest.raises(SystemExit) as caught:
        parse("--epoch", "3")
    assert caught.value.code == 2


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("epochs must\n  be at least 1"), "error: epochs must be at least 1"),
        (FileNotFoundError(2, "No such file", "x.jpg"), "error: [Errno 2] No such file: 'x.jpg'"),
        (TrainingError("loss is nan"), "error: loss is nan"),
        (
            ValueError(
                "Caught ValueError in DataLoader worker process 0.\nOriginal Traceback (most\n"
                "  File x\nValueError: image 3 is broken\n"
            ),
            "error: ValueError: image 3 is broken",
        ),
    ],
)
@pytest.mark.parametrize("debug", [False, True])
def test_errors_are_one_line(
    error: Exception, line: str, debug: bool, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def main() -> None:
        raise error

    monkeypatch.setattr(sys, "argv", ["x", *(["--debug"] if debug else [])])
    with pytest.raises(SystemExit) as caught:
        run_cli(main)
    assert caught.value.code == 1
    printed = capsys.readouterr().err
    assert ("Traceback" in printed) == debug
    assert printed.splitlines()[-1] == line
    if not debug:
        assert printed.count("\n") == 1


def test_other_ends_of_a_program(capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted() -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as caught:
        run_cli(interrupted)
    assert caught.value.code == 130
    with pytest.raises(ZeroDivisionError):  # a bug is shown as one
        run_cli(lambda: 1 / 0)
    run_cli(lambda: None)

    def main() -> None:
        raise ValueError("x")

    monkeypatch.setenv("RANK", "3")
    with pytest.raises(SystemExit):
        run_cli(main)
    assert "error (process 3): x" in capsys.readouterr().err


def test_log_is_cut_where_a_run_continues(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = RunLog(path)
    log.start(0, evaluated=False)
    for step in range(1, 5):
        log.write({"event": "train", "step": step, "loss": 0.1 * step})
    log.write({"event": "evaluate", "step": 4, "accuracy": float("nan")})
    log.close()
    whole = path.read_text()
    path.write_text(whole + '{"event": "train", "st')
    assert [record["step"] for record in read_log(path)] == [1, 2, 3, 4, 4]
    for step, evaluated, lines in ((4, True, 5), (4, False, 4), (3, True, 3)):
        RunLog(path).start(step, evaluated)
        assert path.read_text() == "".join(line + "\n" for line in whole.splitlines()[:lines])
    path.write_text("nonsense\n" + whole)
    with pytest.raises(ValueError, match="line 1: no log record: 'nonsense'"):
        read_log(path)


def test_a_full_disk_is_told_with_the_logs_name(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.start(0, evaluated=False)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (8, limits[1]))  # no file may become larger
    try:
        for act in (lambda: log.write({"event": "train", "step": 1}), log.sync, log.close):
            with pytest.raises(OSError, match=r"File too large: '.*/log\.jsonl'$"):
                act()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def test_means_are_exact_and_in_any_order() -> None:
    entries = [(3, {"task/1": 0.1, "loss": 1e16}), (5, {"loss": 1.0}), (2, {"loss": -1.5e16})]
    means = window_means(entries)
    assert list(means) == ["loss", "task/1"]
    assert means == window_means(reversed(entries))
    assert means == {"loss": 0.5, "task/1": pytest.approx(0.1)}
    assert window_means([]) == {}


def test_live_bar_in_a_terminal(tmp_path: Path) -> None:
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, width=160, highlight=False)
    order = GlobalOrder(TrainConfig(epochs=2, batch_size=8), num_samples=40)
    log = RunLog(tmp_path / "log.jsonl")
    log.start(0, evaluated=False)
    reporter = Reporter(order, log, console=console)
    reporter.start(0, {"model": "Net", "budget": "small"}, "")
    reporter.step(5, 40.0)
    reporter.means(5, 0.1, {"loss": 1.25}, {"skipped": 2})
    reporter.evaluation(5, {"AP": 0.5}, is_best=True)
    reporter.close()
    text = stream.getvalue()
    assert "model   Net" in text
    assert "epoch 1/2" in text and "5/10" in text and "loss 1.25" in text
    assert "2 steps skipped" in text and "evaluated: AP 0.5 (best)" in text
    stream.seek(0), stream.truncate()
    Reporter(order, None, console=console).line("x")
    assert stream.getvalue() == ""


def test_curves(tmp_path: Path) -> None:
    log = RunLog(tmp_path / "log.jsonl")
    log.start(0, evaluated=False)
    for step in range(1, 9):
        losses = {"loss": -1.0 / step, "task/1": 1.0, "tokens/all/1": 1e-3 / step}
        log.write({"event": "train", "step": step, "epoch": 0, "lr": 0.1, **losses})
    log.write({"event": "evaluate", "step": 8, "epoch": 0, "AP": None, "AR": 0.5})
    log.close()
    draw_curves(tmp_path / "log.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").stat().st_size > 10_000
    (tmp_path / "log.jsonl").write_text("")
    draw_curves(tmp_path / "log.jsonl", tmp_path / "empty.png")
    assert not (tmp_path / "empty.png").exists()


def test_many_curves_stay_readable() -> None:
    """A panel for each metric, none squeezed, and every legend within its panel."""
    metrics = {f"{name}/{cycle}": 10.0 for name in "ABCDEFGHIJK" for cycle in (1, 2)}
    records = [{"event": "train", "step": 1, "epoch": 0, "loss": 1.0, "tokens/all/1": 0.1}]
    records += [{"event": "evaluate", "step": step, "epoch": 0, **metrics} for step in (1, 2)]
    figure = curves_figure(records)
    assert figure is not None
    figure.draw_without_rendering()
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["training loss", "distillation terms", *"ABCDEFGHIJK"]
    for axes in figure.axes:
        panel = axes.get_window_extent()
        assert panel.width > 2 * figure.dpi and panel.height > 1.5 * figure.dpi
        legend = axes.get_legend()
        assert legend is None or panel.containsx(legend.get_window_extent().x1)
        assert legend is None or panel.containsy(legend.get_window_extent().y1)
