"""Weight sync over gloo on loopback into an embedded server, loading included, against a plain broadcast of the bytes,
and with every parameter compared by checksum (`sync.verify_every: 1`).

A Qwen2 of about 1 GiB in fp32. All are measured in turn in one run; ratios are medians of the rounds'.

Usage: python benchmarks/weight_sync.py [--rounds 5] [--layers 16] [--hidden 1024] [--bucket-mib 256] [--flatten]
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import torch
from safetensors.torch import load_file

from egrc_mega.convert.families.registry import read_architecture
from egrc_mega.rollout.fleet import Fleet
from egrc_mega.sections.rollout import RolloutSection
from egrc_mega.sync import group
from egrc_mega.sync.buckets import StreamSync
from egrc_mega.sync.distributed import Broadcast
from egrc_mega.sync.spool import Spool
from egrc_mega.sync.transport import Verified
from egrc_mega.testing.tiny_model import write_tiny_model

TIMEOUT_S = 120.0


def main() -> None:
    """Print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=16)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--bucket-mib", type=int, default=256)
    parser.add_argument("--flatten", action="store_true")
    parser.add_argument("--receive", nargs=2, type=int, metavar=("PORT", "BYTES"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    if arguments.receive:
        _receive(*arguments.receive)
        return
    with tempfile.TemporaryDirectory() as folder:
        print(json.dumps(_measure(arguments, Path(folder)), indent=1))


def _measure(arguments: argparse.Namespace, folder: Path) -> dict[str, object]:
    sizes = {"hidden_size": arguments.hidden, "intermediate_size": 4 * arguments.hidden}
    heads = {"num_attention_heads": arguments.hidden // 64, "num_key_value_heads": arguments.hidden // 64}
    model = write_tiny_model("Qwen2", folder / "model", num_hidden_layers=arguments.layers, **sizes, **heads)
    tensors = load_file(model / "model.safetensors")
    num_bytes = sum(tensor.nbytes for tensor in tensors.values())
    plain = PlainBroadcast(num_bytes)
    rows: dict[str, list[float]] = {"sync": [], "verified": [], "broadcast": []}
    with Fleet.start(RolloutSection(), model, "start", folder) as fleet:
        spool = Spool(arguments.bucket_mib * 2**20)
        sync = StreamSync(spool, Broadcast("gloo", flatten=arguments.flatten), fleet)
        transports = {"sync": sync, "verified": Verified(sync, fleet, 1, "cpu")}
        for number in range(arguments.rounds + 1):  # the first warms up: memory, connections
            for name, transport in transports.items():
                started = time.monotonic()
                transport.publish(iter(tensors.items()), read_architecture(model), torch.float32, f"{name}{number}")
                rows[name].append(time.monotonic() - started)
            rows["broadcast"].append(plain.send())
    plain.stop()
    checksums = [v - s for s, v in zip(rows["sync"][1:], rows["verified"][1:], strict=True)]
    ratios = [b / s for s, b in zip(rows["sync"][1:], rows["broadcast"][1:], strict=True)]
    return {
        "gib": num_bytes / 2**30,
        "sync_seconds": rows["sync"][1:],
        "verified_seconds": rows["verified"][1:],
        "broadcast_seconds": rows["broadcast"][1:],
        "checksums_seconds_a_gib_median": median(checksums) / (num_bytes / 2**30),
        "share_of_plain_speed_median": median(ratios),
        "holds": {"60 % of the plain speed or more": median(ratios) >= 0.6, "1 GiB or more": num_bytes >= 2**30},
        "torch": torch.__version__,
        "machine": platform.machine(),
        "cores": os.cpu_count(),
    }


class PlainBroadcast:
    """The same number of bytes in one gloo broadcast to one other process."""

    def __init__(self, num_bytes: int) -> None:
        store = group.open_store("127.0.0.1")
        command = [sys.executable, "-P", __file__, "--receive", str(store.port), str(num_bytes)]
        self.process = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"})
        self.group = group.join(store, 0, 2, "plain", "gloo", TIMEOUT_S)
        self.data = torch.ones(num_bytes, dtype=torch.uint8)

    def send(self) -> float:
        """Seconds, until the other side says that it has everything."""
        started = time.monotonic()
        group.broadcast(self.group, torch.ones(1))
        group.broadcast(self.group, self.data)
        self.group.barrier().wait()
        return time.monotonic() - started

    def stop(self) -> None:
        group.broadcast(self.group, torch.zeros(1))
        self.process.wait(30)


def _receive(port: int, num_bytes: int) -> None:
    members = group.join(group.find_store("127.0.0.1", port), 1, 2, "plain", "gloo", TIMEOUT_S)
    more, data = torch.ones(1), torch.zeros(num_bytes, dtype=torch.uint8)
    while True:
        group.broadcast(members, more)
        if not more:
            return
        group.broadcast(members, data)
        members.barrier().wait()


if __name__ == "__main__":
    main()
