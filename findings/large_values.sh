#!/usr/bin/env bash
# On Linux with glibc, torch's CPU operations fetch the memory of every result above 32 MiB anew from the system, and give it back when
# it is freed: each call then takes one page fault for each 4 KiB. Below that, the memory of the last result is taken again, with no fault.
# So a batch of twice the size may take four times as long, which looks like a full cache of the processor, and is not: the step stays
# where it is whatever the caches are, and goes where malloc is told to keep what is freed.
set -euo pipefail
where=$(mktemp -d)
trap 'rm -rf "$where"' EXIT
python3 -m venv "$where/venv"
"$where/venv/bin/pip" install -q torch==2.13.0 numpy
cat > "$where/faults.py" <<'PY'
import platform
import resource

import torch

torch.set_num_threads(1)


def faults(mebibytes, calls=20):
    x = torch.ones(mebibytes << 18)
    for _ in range(4):
        torch.relu(x)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(calls):
        torch.relu(x)
    return (resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before) / calls


faults(31)  # malloc learns, up to 32 MiB, from what is freed
found = {size: faults(size) for size in (8, 16, 31, 33, 64)}
print(f"torch {torch.__version__}, {' '.join(platform.libc_ver())}: page faults of one relu, by the MiB of its result")
print(*(f"  {size:3} MiB: {count:8.1f}" for size, count in found.items()), sep="\n")
few = all(found[size] < 100 for size in (8, 16, 31))
many = all(found[size] > (size << 8) * 0.9 for size in (33, 64))
PY
cp "$where/faults.py" "$where/kept.py"
echo 'raise SystemExit(0 if few and many else 1)' >> "$where/faults.py"
echo 'raise SystemExit(0 if max(found.values()) < 100 else 1)' >> "$where/kept.py"
"$where/venv/bin/python" "$where/faults.py"
echo "and where malloc is told to keep what is freed:"
GLIBC_TUNABLES=glibc.malloc.mmap_threshold=1073741824:glibc.malloc.trim_threshold=4294967296 \
  "$where/venv/bin/python" "$where/kept.py"
