"""A warm process that forks training programs: importing PyTorch once, not for each of them.

Reads one JSON request a line, {"args": [...], "ranks": 2, "after": 0.3, "signal": 9, ...}; answers
with {"codes": [...], "output": "..."}. With "program" it runs that script in place of `toy.py`;
with "only" just that rank gets the signal.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import socket
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import Any

import toy

# What training imports when it needs it.
for name in (
    "matplotlib.backends.backend_agg",
    "matplotlib.figure",
    "torch._dynamo",
    "torch.distributed.fsdp",
    "torch.distributed.tensor",
):
    importlib.import_module(name)

os.environ["OMP_NUM_THREADS"] = "1"


def child(request: dict[str, Any], rank: int, port: int, output: int) -> None:
    os.setpgid(0, 0)
    os.dup2(output, 1)
    os.dup2(output, 2)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    os.environ.update(request.get("environment", {}))
    ranks = request.get("ranks", 1)
    if ranks > 1:
        os.environ.update(
            RANK=str(rank),
            LOCAL_RANK=str(rank),
            WORLD_SIZE=str(ranks),
            LOCAL_WORLD_SIZE=str(ranks),
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=str(port),
        )
    program = request.get("program")
    sys.argv = [program or "toy.py", *request["args"]]
    code = 1
    try:
        if program is None:
            toy.run_cli(toy.main)
        else:
            sys.path.insert(0, str(Path(program).parent))  # as Python does for a script
            runpy.run_path(program, run_name="__main__")
        code = 0
    except SystemExit as error:
        code = error.code if isinstance(error.code, int) else 1
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def free_port() -> int:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        return server.getsockname()[1]


def wait(pids: list[int], seconds: float | None) -> dict[int, int]:
    codes: dict[int, int] = {}
    end = None if seconds is None else time.monotonic() + seconds
    while len(codes) < len(pids) and (end is None or time.monotonic() < end):
        for pid in pids:
            if pid not in codes:
                done, status = os.waitpid(pid, os.WNOHANG)
                if done:
                    codes[pid] = os.waitstatus_to_exitcode(status)
        time.sleep(0.005)
    return codes


def wait_for(path: Path, text: str) -> None:
    end = time.monotonic() + 60
    while text not in path.read_text():
        if time.monotonic() > end:
            raise TimeoutError(f"{text!r} did not appear in the output:\n{path.read_text()}")
        time.sleep(0.01)


def serve(request: dict[str, Any], scratch: Path) -> dict[str, Any]:
    if "program" in request:  # what the examples import
        for name in ("cycledistill_pose.recipes", "cycledistill_deit"):
            importlib.import_module(name)
    gc.freeze()  # so that the programs look for garbage among their own objects alone
    path = scratch / "output.txt"
    with open(path, "wb") as output:
        port = free_port()
        pids = []
        for rank in range(request.get("ranks", 1)):
            pid = os.fork()
            if pid == 0:
                child(request, rank, port, output.fileno())
            pids.append(pid)
        if "signal" in request:
            if "wait_for" in request:
                wait_for(path, request["wait_for"])
            codes = wait(pids, request.get("after", 0.0))
            chosen = pids if request.get("only") is None else [pids[request["only"]]]
            for pid in chosen:
                if pid not in codes:
                    send = os.killpg if request.get("group") else os.kill
                    for _ in range(request.get("times", 1)):
                        send(pid, request["signal"])
                        time.sleep(0.1)
            codes.update(wait([pid for pid in pids if pid not in codes], 60))
        else:
            codes = wait(pids, 120)
        for pid in pids:
            if pid not in codes:
                os.kill(pid, signal.SIGKILL)
                codes[pid] = -999
    return {"codes": [codes[pid] for pid in pids], "output": path.read_text()}


def main() -> None:
    limit = resource.RLIMIT_CORE
    resource.setrlimit(limit, (0, resource.getrlimit(limit)[1]))
    with tempfile.TemporaryDirectory() as scratch:
        print("ready", flush=True)
        for line in sys.stdin:
            print(json.dumps(serve(json.loads(line), Path(scratch))), flush=True)


if __name__ == "__main__":
    main()
