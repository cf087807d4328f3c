"""Load `automl-cxr serve` with concurrent uploads, damaged files among them, and measure latency, throughput and memory.

    python benchmarks/serve_load.py                       # makes a small study of phantoms first; 5 minutes on two cores
    python benchmarks/serve_load.py STUDY --runs RUNS     # a study, or the folder of an ensemble

200 clients send one upload after another: PNG, JPEG and DICOM radiographs of up to 4 megapixels, every tenth with a heat map.
One in eight is a file that must be refused: truncated, text, a decompression bomb, a CT slice. An answer with another status
than the expected one, or with other probabilities than the first answer for the same image, is an error. The clients run on the
same cores.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import os
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import psutil
from measure import machine_facts
from serve_uploads import Upload, make_uploads

_AUTOML_CXR = [sys.executable, "-c", "from automl_cxr.cli import main; main()"]
_START_SECONDS = 600
_TOLERANCE = 1e-5  # of a probability


@dataclass
class Round:
    """The answers of one round.

    Attributes:
        seconds: Wall time.
        latencies: Seconds of each request.
        refused: Number of bad files that were refused as expected.
        errors: Descriptions of wrong answers.
    """

    seconds: float = 0.0
    latencies: list[float] = field(default_factory=list)
    refused: int = 0
    errors: list[str] = field(default_factory=list)


def make_study(folder: Path) -> tuple[str, Path]:
    """Search on phantoms; return the name of the study and the folder of its files."""
    data, runs = folder / "chests", folder / "runs"
    for arguments in (
        ["data", "demo", str(data), "--images", "90", "--image-size", "96"],
        ["search", "--data", str(data), "--trials", "2", "--image-size", "64", "--name", "load", "--runs", str(runs)],
    ):
        subprocess.run([*_AUTOML_CXR, *arguments], check=True, stdout=subprocess.DEVNULL)
    return "load", runs


def start_server(classifier: str, runs: Path | None) -> tuple[subprocess.Popen[str], str]:
    """Start the server on a free port; return the process and the address when it predicts."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    location = [] if runs is None else ["--runs", str(runs)]
    process = subprocess.Popen([*_AUTOML_CXR, "serve", classifier, "--port", str(port), *location], text=True)
    address, deadline = f"http://127.0.0.1:{port}", time.monotonic() + _START_SECONDS
    while process.poll() is None and time.monotonic() < deadline:
        try:
            httpx.get(f"{address}/health", timeout=_START_SECONDS, trust_env=False).raise_for_status()
            return process, address
        except httpx.TransportError:
            time.sleep(0.5)
    raise SystemExit("The server did not start.")


async def send_round(address: str, uploads: list[Upload], n_clients: int, n_requests: int, known: dict[str, dict]) -> Round:
    """Send requests from concurrent clients, each one after another."""
    result, numbers = Round(), iter(range(n_requests))
    limits = httpx.Limits(max_connections=n_clients, max_keepalive_connections=n_clients)

    async def run_client(client: httpx.AsyncClient) -> None:
        for number in numbers:
            upload = uploads[number % len(uploads)]
            began = time.perf_counter()
            try:
                answer = await client.post(
                    "/predict", params={"heatmap": number % 10 == 0}, files={"file": (upload.name, upload.content)}
                )
            except httpx.HTTPError as error:
                result.errors.append(f"{upload.name}: {error!r}")
                continue
            result.latencies.append(time.perf_counter() - began)
            _check(upload, answer, known, result)

    began = time.perf_counter()
    async with httpx.AsyncClient(base_url=address, timeout=600, limits=limits, trust_env=False) as client:
        await asyncio.gather(*(run_client(client) for _ in range(n_clients)))
    result.seconds = time.perf_counter() - began
    return result


def _check(upload: Upload, answer: httpx.Response, known: dict[str, dict], result: Round) -> None:
    if answer.status_code != upload.status:
        result.errors.append(f"{upload.name}: status {answer.status_code} instead of {upload.status}: {answer.text[:200]}")
    elif upload.status != 200:
        result.refused += 1
    else:
        probabilities = answer.json()["probabilities"]
        first = known.setdefault(upload.name, probabilities)
        if any(abs(first[name] - probability) > _TOLERANCE for name, probability in probabilities.items()):
            result.errors.append(f"{upload.name}: {probabilities} instead of {first}")


def rss(process: psutil.Process) -> float:
    """Return the resident memory of a process in MiB."""
    return process.memory_info().rss / 2**20


def main() -> None:
    """Run the benchmark and print its tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("classifier", nargs="?", help="study or ensemble [default: a new study of phantoms]")
    parser.add_argument("--runs", type=Path, help="folder that contains the files of all studies")
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--requests", type=int, default=600, help="requests of a round")
    parser.add_argument("--rounds", type=int, default=6)
    arguments = parser.parse_args()
    print(machine_facts())
    with tempfile.TemporaryDirectory() as folder:
        classifier, runs = (arguments.classifier, arguments.runs) if arguments.classifier else make_study(Path(folder))
        process, address = start_server(classifier, runs)
        try:
            n_errors = _measure(process, address, arguments)
        finally:
            began = time.perf_counter()
            process.send_signal(signal.SIGTERM)
            code = process.wait(timeout=60)
    print(f"\nThe server ended {time.perf_counter() - began:.1f} s after SIGTERM with exit code {code}.")
    raise SystemExit(1 if n_errors or code else 0)


def _measure(process: subprocess.Popen[str], address: str, arguments: argparse.Namespace) -> int:
    server, uploads, known = psutil.Process(process.pid), make_uploads(), {}
    print(f"Uploads: {len(uploads)} files of {min(map(len_of, uploads)):,} to {max(map(len_of, uploads)):,} bytes.\n")
    columns = (
        "round",
        "clients",
        "requests",
        "refused",
        "errors",
        "requests/s",
        "median s",
        "95 % s",
        "max s",
        "RSS MiB",
        "threads",
    )
    print(f"| {' | '.join(columns)} |\n{'| --- ' * len(columns)}|")
    print(f"| start | | | | | | | | | | {rss(server):.0f} | {server.num_threads()} |", flush=True)
    n_errors = 0
    plan = [(1, len(uploads)), *itertools.repeat((arguments.clients, arguments.requests), arguments.rounds)]
    for number, (n_clients, n_requests) in enumerate(plan):
        cpu_seconds = sum(server.cpu_times()[:2])
        one = asyncio.run(send_round(address, uploads, n_clients, n_requests, known))
        n_errors += len(one.errors)
        cells = (
            *(number, n_clients, n_requests, one.refused, len(one.errors), f"{n_requests / one.seconds:.1f}"),
            f"{(sum(server.cpu_times()[:2]) - cpu_seconds) / n_requests:.3f}",
            *(f"{statistics.median(one.latencies):.2f}", f"{statistics.quantiles(one.latencies, n=20)[-1]:.2f}"),
            *(f"{max(one.latencies):.2f}", f"{rss(server):.0f}", server.num_threads()),
        )
        print(f"| {' | '.join(map(str, cells))} |", flush=True)
        for error in one.errors[:5]:
            print(f"error: {error}", file=sys.stderr)
    return n_errors


def len_of(upload: Upload) -> int:
    """Return the size of an upload in bytes."""
    return len(upload.content)


if __name__ == "__main__":
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    main()
