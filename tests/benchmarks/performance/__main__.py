"""What safety costs, as ratios within one run: `python -m tests.benchmarks.performance [PART ...] [--small]`.

Parts: `rules` (aggregation rules against torch.mean), `server` (admission, scoring, weighing and aggregation of many clients'
updates in one process), `scoring` (a probe's scores a second), `levels` (whole runs of the embedded world by level of defense),
`clients` (a round of the embedded world by number of clients). Without a part: all of them, an hour on two cores. `--small` is a
few minutes: it shows that the parts run, and its figures say little. The last line is a JSON object.

Compare the figures of one run with each other; on a machine that does something else beside, even those are off.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
from pathlib import Path

import psutil
import torch

from tests.benchmarks.performance import clients, levels, rules, scoring, server

PARTS = {
    "rules": rules.measure,
    "server": server.measure,
    "scoring": scoring.measure,
    "levels": levels.measure,
    "clients": clients.measure,
}


def machine() -> dict[str, object]:
    """What the figures were taken on."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    named = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return {
        "processor": named[0] if named else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "memory_gb": round(psutil.virtual_memory().total / 1e9, 1),
        "load": round(os.getloadavg()[0], 2),
        "torch": torch.__version__,
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"of {', '.join(PARTS)}")
    parser.add_argument("--small", action="store_true", help="a few clients and rounds")
    arguments = parser.parse_args()
    if unknown := sorted(set(arguments.parts) - set(PARTS)):
        parser.error(f"no part is called {unknown[0]}; name some of {', '.join(PARTS)}")
    found = {"machine": machine(), "small": arguments.small}
    print(found["machine"], flush=True)
    for name in arguments.parts or PARTS:
        print(f"\n## {name}", flush=True)
        found[name] = PARTS[name](small=arguments.small)
    print(json.dumps(found))


if __name__ == "__main__":
    main()
