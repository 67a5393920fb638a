"""Every kernel executed by software Vulkan drivers, for scripts/check-gpus --run: run.py LEHR CACHE FOLDER TESTS [DRIVER...]

Drivers: `installed` (the machine's lavapipe), `newest` (the lavapipe in CACHE), `swiftshader` (Chromium's, or the library that
$LEHR_SWIFTSHADER names). Each runs `lehr doctor` with the kernels that it gets (lavapipe those of software adapters, SwiftShader those of
GPUs), with those of GPUs, with WebGPU's default limits, and with float16 products, which drivers without cooperative matrices must refuse. What doctor says is kept in FOLDER. Fails when a kernel is wrong, when compiling takes more than a minute, or when the process needs
more than 2 GB.

TESTS is the binary of tests/kernels.rs, which then runs instead of doctor (more shapes, more seeds), or `-`: with the kernels of GPUs, with
all limits and with WebGPU's default ones.
"""

import json
import os
import resource
import sys
import tempfile
import time
from pathlib import Path

MOST_COMPILE_SECONDS, MOST_BYTES = 60, 2_000_000_000
LIBRARIES = "sysroot/usr/lib/x86_64-linux-gnu"
SWIFTSHADER = ["/usr/lib/chromium/libvk_swiftshader.so", "/opt/google/chrome/libvk_swiftshader.so"]
FLOAT16 = ["--matmul-precision", "float16"]
VARIANTS: list[tuple[str, dict[str, str], list[str]]] = [
    ("as chosen", {}, []),
    ("hardware", {"LEHR_CLASS": "hardware"}, []),
    ("hardware, default limits", {"LEHR_CLASS": "hardware", "LEHR_LIMITS": "default"}, []),
    ("hardware, float16", {"LEHR_CLASS": "hardware"}, FLOAT16),
    ("hardware, float16, default limits", {"LEHR_CLASS": "hardware", "LEHR_LIMITS": "default"}, FLOAT16),
]
# The test that runs on a device; the others are of the CPU, or choose the class themselves.
TEST = "kernels_match_their_references"
# Of these drivers only this one lists cooperative matrices; the others must say so.
COOPERATIVE, REFUSAL = "newest", "lists no cooperative matrices"


def drivers(cache: Path, folder: Path) -> dict[str, tuple[Path, list[str]]]:
    """By name: the manifest, and what the command starts with. The newest drivers need their own C library."""
    found: dict[str, tuple[Path, list[str]]] = {}
    for installed in sorted(Path("/usr/share/vulkan/icd.d").glob("lvp_icd*.json")):
        found["installed"] = (installed, [])
    libraries = cache / LIBRARIES
    if (libraries / "libvulkan_lvp.so").exists():
        # This machine's libraries last: a binary with MPI needs them.
        loader = [str(libraries / "ld-linux-x86-64.so.2"), "--library-path", f"{libraries}:/usr/lib/x86_64-linux-gnu"]
        found["newest"] = (cache / "icd/lvp_icd.json", loader)
    for library in filter(None, [os.environ.get("LEHR_SWIFTSHADER"), *SWIFTSHADER]):
        if Path(library).exists():
            manifest = folder / "swiftshader_icd.json"
            icd = {"library_path": str(Path(library).resolve()), "api_version": "1.1.0"}
            manifest.write_text(json.dumps({"file_format_version": "1.0.0", "ICD": icd}))
            found["swiftshader"] = (manifest, [])
            break
    return found


def execute(command: list[str], environment: dict[str, str], out: Path) -> tuple[int, float, float, int]:
    """Exit status, seconds, seconds of processor time, and the most bytes of memory."""
    begin = time.monotonic()
    with out.open("wb") as file, out.with_suffix(".err").open("wb") as errors:
        actions = [(os.POSIX_SPAWN_DUP2, file.fileno(), 1), (os.POSIX_SPAWN_DUP2, errors.fileno(), 2)]
        child = os.posix_spawn(command[0], command, environment, file_actions=actions)
        # A compiler that takes far too much must not take the machine's last.
        resource.prlimit(child, resource.RLIMIT_DATA, (4 * MOST_BYTES, 4 * MOST_BYTES))
        _, status, used = os.wait4(child, 0)
    return os.waitstatus_to_exitcode(status), time.monotonic() - begin, used.ru_utime + used.ru_stime, used.ru_maxrss * 1024


def evaluate(out: Path, status: int, processor: float, memory: int) -> tuple[str, float, list[str]]:
    """Device, seconds of compilation, and what is wrong."""
    name, compiling, wrong, kernels = "no device", 0.0, [], 0
    for line in out.read_text().splitlines():
        row = json.loads(line)
        if row.get("used"):
            name = f"{row['adapter']}; {row['driver']}"
        if "kernel" in row:
            kernels += 1
            compiling += row["compile_seconds"]
            if not row["passed"]:
                wrong.append(f"{row['kernel']}: {row['detail']}")
    if status != 0 and not wrong:
        wrong.append(f"exit status {status}: {out.with_suffix('.err')}")
    if kernels == 0:
        wrong.append("no kernel was checked")
    # On a busy machine doctor's clock counts what others do; no process compiles for longer than it runs.
    compiling = min(compiling, processor)
    if compiling > MOST_COMPILE_SECONDS:
        wrong.append(f"{compiling:.0f} s of compilation; at most {MOST_COMPILE_SECONDS}")
    if memory > MOST_BYTES:
        wrong.append(f"{memory / 1e9:.1f} GB of memory; at most {MOST_BYTES / 1e9:.0f}")
    return name, compiling, wrong


def evaluate_tests(out: Path, status: int) -> list[str]:
    """What is wrong with a run of the test binary: a test that was renamed must not pass."""
    text = out.read_text(errors="replace")
    if status == 0 and "test result: ok. 1 passed" in text:
        return []
    return [f"exit status {status}: {out}, {out.with_suffix('.err')}"]


def self_test() -> None:
    """A check that cannot fail is a defect: what is wrong must be found, what is right must not."""
    right = {"kernel": "a", "compile_seconds": 70.0, "passed": True, "detail": ""}
    cases = [
        ([right], 0, 50.0, 10**8, ""),
        ([{**right, "passed": False, "detail": "y[3]"}], 1, 50.0, 10**8, "y[3]"),
        ([right], 101, 50.0, 10**8, "exit status 101"),
        ([], 0, 50.0, 10**8, "no kernel"),
        ([right], 0, 80.0, 10**8, "70 s of compilation"),
        ([right], 0, 50.0, 3 * 10**9, "3.0 GB"),
    ]
    with tempfile.TemporaryDirectory() as folder:
        for rows, status, processor, memory, expected in cases:
            out = Path(folder) / "out.jsonl"
            out.write_text("".join(json.dumps(row) + "\n" for row in rows))
            wrong = evaluate(out, status, processor, memory)[2]
            if len(wrong) != bool(expected) or expected not in "".join(wrong):
                sys.exit(f"run.py: expected {expected!r}, found {wrong}")
        for status, text, right in [(0, "ok. 1 passed", True), (101, "FAILED. 0 passed", False), (0, "ok. 0 passed", False)]:
            out.write_text(f"test result: {text}; 0 ignored")
            if bool(evaluate_tests(out, status)) == right:
                sys.exit(f"run.py: tests with status {status} and {text!r} are not evaluated")


def report(driver: str, variant: str, verdict: str, wrong: list[str]) -> bool:
    print(f"{driver:<12} {variant:<33} {verdict}", flush=True)
    for text in wrong:
        print(f"check-gpus: {driver}, {variant}: {text}", file=sys.stderr, flush=True)
    return bool(wrong)


def run_doctor(driver: str, prefix: list[str], lehr: str, variant: str, flags: list[str], environment: dict[str, str], out: Path) -> bool:
    """Whether something is wrong."""
    command = [*prefix, lehr, "doctor", "--json", "--adapter", "vulkan", *flags]
    status, seconds, processor, memory = execute(command, environment, out)
    if flags == FLOAT16 and driver != COOPERATIVE:
        refused = status == 1 and REFUSAL in out.with_suffix(".err").read_text()
        return report(driver, variant, "refused" if refused else "WRONG", [] if refused else ["float16 was not refused"])
    name, compiling, wrong = evaluate(out, status, processor, memory)
    times = f"compile {compiling:5.1f} s, all {seconds:5.1f} s ({processor:.1f} of processor time), {memory / 1e6:,.0f} MB  {name}"
    return report(driver, variant, f"{'WRONG' if wrong else 'ok':<6} {times}", wrong)


def run_tests(driver: str, prefix: list[str], tests: str, variant: str, environment: dict[str, str], out: Path) -> bool:
    """Whether something is wrong."""
    command = [*prefix, tests, "--exact", TEST, "--nocapture"]
    status, seconds, processor, memory = execute(command, {**environment, "LEHR_ADAPTER": "vulkan"}, out)
    wrong = evaluate_tests(out, status)
    times = f"all {seconds:5.1f} s ({processor:.1f} of processor time), {memory / 1e6:,.0f} MB"
    return report(driver, variant, f"{'WRONG' if wrong else 'ok':<6} tests/kernels, {times}", wrong)


def main() -> int:
    lehr, cache, folder, tests, wanted = sys.argv[1], Path(sys.argv[2]).resolve(), Path(sys.argv[3]).resolve(), sys.argv[4], sys.argv[5:]
    folder.mkdir(parents=True, exist_ok=True)
    found, failed = drivers(cache, folder), False
    for driver in wanted or ["installed", "newest", "swiftshader"]:
        if driver not in found:
            print(f"check-gpus: {driver}: no such driver on this machine", file=sys.stderr)
            failed = failed or driver in wanted
            continue
        manifest, prefix = found[driver]
        for variant, settings, flags in VARIANTS:
            # What a driver compiled before would take no time.
            apart = {"VK_DRIVER_FILES": str(manifest), "VK_ICD_FILENAMES": str(manifest), "MESA_SHADER_CACHE_DISABLE": "true"}
            environment = {**os.environ, **settings, **apart}
            name = f"{driver}-{variant.replace(', ', '-').replace(' ', '-')}"
            if tests == "-":
                wrong = run_doctor(driver, prefix, lehr, variant, flags, environment, folder / f"{name}.jsonl")
            elif settings and not flags:
                wrong = run_tests(driver, prefix, tests, variant, environment, folder / f"{name}-tests.txt")
            else:
                continue
            failed = failed or wrong
    return int(failed)


if __name__ == "__main__":
    sys.exit(main())
