"""`bodyparts serve` under load: latency of every kind of request, errors, and the server's memory.

    python benchmarks/bench_server.py --clients 8 --seconds 60

Clients on this machine, of each kind in turn, send one synthetic image after the other, each once
the previous one has been answered. They share the processor with the server. Memory is read from
/proc: Linux only.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import cv2
import httpx
import numpy as np
from websockets.asyncio.client import connect

from detectron2_bodyparts.readers.figures import SyntheticConfig, render

PICTURES = 20
KINDS = ("stream", "predict, JSON", "predict, PNG")
WARM_UP = 0.2  # fraction of the time after which memory should no longer grow

Ask = Callable[[bytes], Awaitable[bool]]  # an image file -> whether the answer was valid
Latencies = dict[str, list[float]]


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--clients", type=int, default=8, help="(default: %(default)s)")
    parser.add_argument("--seconds", type=float, default=60, help="(default: %(default)s)")
    parser.add_argument(
        "--size", type=int, nargs=2, default=(480, 640), help="height, width (default: %(default)s)"
    )
    parser.add_argument("serve", nargs="*", help="options of `bodyparts serve`, after --")
    args = parser.parse_args(argv)

    config = SyntheticConfig(image_size=tuple(args.size))
    pictures = [
        cv2.imencode(".jpg", render(2 * i + 1, config).image)[1].tobytes() for i in range(PICTURES)
    ]
    command = [sys.executable, "-m", "detectron2_bodyparts.cli", "serve", "--port", "0"]
    process = subprocess.Popen([*command, *args.serve], stdout=subprocess.PIPE, text=True)
    try:
        url = process.stdout.readline().split()[0]
        load = Load(url, pictures, args.seconds)
        memory = asyncio.run(load.run(args.clients, process.pid))
    finally:
        process.terminate()
        process.wait()
    print(load.table())
    warm = memory[int(len(memory) * WARM_UP)]
    print(
        f"server's memory: {memory[0]:.0f} MiB at first, {warm:.0f} after {WARM_UP:.0%} of the "
        f"time, {memory[-1]:.0f} at the end, {max(memory):.0f} at most"
    )
    return 1 if load.errors else 0


class Load:
    """Clients that send requests until the time is over.

    Args:
        url: the server's.
        pictures: the content of image files.
        seconds: how long to run.
    """

    def __init__(self, url: str, pictures: Sequence[bytes], seconds: float) -> None:
        self._url = url
        self._pictures = pictures
        self._seconds = seconds
        self._clients = dict.fromkeys(KINDS, 0)
        self._latencies: Latencies = {kind: [] for kind in KINDS}
        self.errors = 0

    async def run(self, clients: int, pid: int) -> list[float]:
        """Run the clients; return the memory of process ``pid`` every second, in MiB."""
        self._end = time.monotonic() + self._seconds
        kinds = itertools.islice(itertools.cycle(KINDS), clients)
        tasks = [asyncio.create_task(self._client(kind)) for kind in kinds]
        memory = []
        while time.monotonic() < self._end:
            memory.append(resident_mebibytes(pid))
            await asyncio.sleep(1)
        await asyncio.gather(*tasks)
        return memory

    async def _client(self, kind: str) -> None:
        self._clients[kind] += 1
        if kind == "stream":
            async with connect(f"{self._url.replace('http', 'ws')}stream") as socket:

                async def ask(picture: bytes) -> bool:
                    await socket.send(picture)
                    return "people" in json.loads(await socket.recv())

                await self._ask_on(kind, ask)
        else:
            output = kind.split()[-1].lower()
            async with httpx.AsyncClient(base_url=self._url, timeout=60) as client:

                async def ask(picture: bytes) -> bool:
                    path = f"predict?format={output}"
                    return (await client.post(path, content=picture)).status_code == 200

                await self._ask_on(kind, ask)

    async def _ask_on(self, kind: str, ask: Ask) -> None:
        pictures = itertools.cycle(self._pictures)
        while time.monotonic() < self._end:
            start = time.perf_counter()
            right = await ask(next(pictures))
            self._latencies[kind].append(time.perf_counter() - start)
            self.errors += not right

    def table(self) -> str:
        """A line for every kind of request, and the number of errors."""
        lines = ["kind           clients  answers   /s    median     95 %     99 %     most   (ms)"]
        for kind, latencies in self._latencies.items():
            if latencies:
                ms = 1000 * np.percentile(latencies, [50, 95, 99, 100])
                figures = "".join(f"{value:9.0f}" for value in ms)
                rate = len(latencies) / self._seconds
                clients = self._clients[kind]
                lines.append(f"{kind:14} {clients:7} {len(latencies):8} {rate:5.1f} {figures}")
        lines.append(f"errors: {self.errors}")
        return "\n".join(lines)


def resident_mebibytes(pid: int) -> float:
    """Resident memory of a process, in MiB."""
    status = Path(f"/proc/{pid}/status").read_text()
    [line] = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    sys.exit(main())
