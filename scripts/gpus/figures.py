"""What scripts/check-gpus found, compared with the committed figures: figures.py MODE FOLDER FIGURES DEVICE...

MODE holds `check` or `update`, and `table`. FOLDER has a table of vkstat for each device.
"""

import sys
from pathlib import Path

COLUMNS = ["registers", "spills", "lds", "occupancy", "cycles", "instructions"]
# A kernel may grow by this much against the committed figures: a compiler's heuristics jump.
MARGINS = {"registers": (1.10, 8), "cycles": (1.15, 200)}
# Older GPUs: what their compilers say is printed, but not kept, and nothing of it is a failure.
FOR_INFORMATION = {"vega10", "polaris10"}


def read(path: Path) -> tuple[str, dict[str, dict[str, str]]]:
    """Driver, and the figures of each kernel; a driver with several executables a kernel has them joined by the largest."""
    lines = path.read_text().splitlines()
    driver, header = lines[0].removeprefix("# "), lines[1].split("\t")
    kernels: dict[str, dict[str, str]] = {}
    for line in lines[2:]:
        row = dict(zip(header, line.split("\t"), strict=True))
        kernels[row["kernel"]] = {c: row[c] for c in COLUMNS}
    return driver, kernels


def number(text: str) -> int:
    return 0 if text == "-" else int(text)


def committed(path: Path) -> dict[str, tuple[str, dict[str, dict[str, str]]]]:
    """By device: driver and figures."""
    known: dict[str, tuple[str, dict[str, dict[str, str]]]] = {}
    if not path.exists():
        return known
    for line in path.read_text().splitlines():
        fields = line.split("\t")
        if line.startswith("# "):
            known[fields[0].removeprefix("# ")] = (fields[1], {})
        elif fields[0] in known:
            known[fields[0]][1][fields[1]] = dict(zip(COLUMNS, fields[2:], strict=True))
    return known


def grown(kernel: str, now: dict[str, str], before: dict[str, str]) -> list[str]:
    found = []
    for column, (factor, allowance) in MARGINS.items():
        old, new = number(before[column]), number(now[column])
        if new > old * factor and new > old + allowance:
            found.append(f"{kernel}: {column} {old} -> {new}")
    return found


def main() -> int:
    mode, folder, figures, devices = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:]
    known, failures, out = committed(figures), [], []
    print(f"{'device':<10} {'kernels':>7} {'spilling':>8} {'grown':>5} {'new':>4}  driver")
    for device in devices:
        path = folder / f"{device}.tsv"
        if not path.exists() or len(path.read_text().splitlines()) < 3:
            failures.append(f"{device}: nothing was compiled")
            continue
        driver, kernels = read(path)
        spilling = [f"{k}: spills {f['spills']}" for k, f in kernels.items() if number(f["spills"]) > 0]
        before_driver, before = known.get(device, ("", {}))
        worse = []
        if before_driver == driver:
            worse = [w for k, f in kernels.items() if k in before for w in grown(k, f, before[k])]
        new = sum(k not in before for k in kernels)
        note = "" if before_driver in ("", driver) else f"; the figures are of {before_driver}: growth is not compared"
        print(f"{device:<10} {len(kernels):>7} {len(spilling):>8} {len(worse):>5} {new:>4}  {driver}{note}")
        if device not in FOR_INFORMATION:
            failures += [f"{device}: {text}" for text in spilling + ([] if "update" in mode else worse)]
            out.append(f"# {device}\t{driver}")
            out += ["\t".join([device, k, *(f[c] for c in COLUMNS)]) for k, f in sorted(kernels.items())]
        if "table" in mode:
            print(f"\n{'kernel':<64}" + "".join(f"{c:>13}" for c in COLUMNS))
            for k, f in sorted(kernels.items()):
                print(f"{k:<64}" + "".join(f"{f[c]:>13}" for c in COLUMNS))
            print()
    for failure in failures:
        print(f"check-gpus: {failure}", file=sys.stderr)
    if "update" in mode and not failures:
        figures.write_text("\n".join(out) + "\n")
        print(f"written: {figures}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
