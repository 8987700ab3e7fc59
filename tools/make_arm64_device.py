"""Make the emulated ARM device: a folder with Debian's arm64 Python and the arm64 builds of both runtimes.

    python tools/make_arm64_device.py [--root FOLDER] [--replace]

Needs ``qemu-user-static`` to run it, and here ``apt-get``, ``dpkg`` and ``debian-archive-keyring``; nothing is installed on
this system and no right of an administrator is needed. Packages are checked by apt against Debian's keys. The runtimes get
the versions that are installed beside edgekd, so that a difference between the two is one of processors. About 250 MB.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

from edgekd.benchmark.transports.emulated import ABOUT, COUNTER, CPU, default_root, emulator

SUITE = "bookworm"
PACKAGES = ("python3.11", "libstdc++6", "libgcc-s1")
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
WHEELS = ("numpy", "onnxruntime", "ai-edge-litert")
PLATFORMS = ("manylinux_2_34", "manylinux_2_31", "manylinux_2_28", "manylinux_2_27", "manylinux_2_17", "manylinux2014")
SITE = "usr/local/lib/python3.11/dist-packages"
FEATURES = "fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
PROCESSOR = f"""processor\t: {{index}}
BogoMIPS\t: 108.00
Features\t: {FEATURES}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x4
CPU part\t: 0xd0b
CPU revision\t: 1

"""
"""One core of ``/proc/cpuinfo``: a Cortex-A76, as in a Raspberry Pi 5."""
MIDR = "0x00000000414fd0b1\n"


def debian_packages(mirror: str, scratch: Path) -> list[Path]:
    """Download ``PACKAGES`` for arm64 with all that they need, by an apt configuration of their own; return the files."""
    state, cache, sources, status = scratch / "state", scratch / "cache", scratch / "sources.list", scratch / "status"
    (state / "lists" / "partial").mkdir(parents=True)
    (cache / "archives" / "partial").mkdir(parents=True)
    sources.write_text(f"deb [signed-by={KEYRING}] {mirror} {SUITE} main\n")
    status.touch()
    settings = {
        "APT::Architecture": "arm64", "APT::Architectures": "arm64", "APT::Sandbox::User": "", "Acquire::Languages": "none",
        "Dir::State": state, "Dir::State::status": status, "Dir::Cache": cache,
        "Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "/dev/null", "Debug::NoLocking": "true",
    }  # fmt: skip
    apt = ["apt-get", "--quiet", *(f"--option={key}={value}" for key, value in settings.items())]
    run([*apt, "update"])
    run([*apt, "install", "--yes", "--download-only", "--no-install-recommends", *PACKAGES])
    return sorted((cache / "archives").glob("*.deb"))


def runtime_wheels(folder: Path) -> dict[str, Path]:
    """Download the aarch64 wheels of ``WHEELS``, in the versions installed here; return ``{name==version: file}``."""
    found = {}
    for name in WHEELS:
        wanted = f"{name}=={importlib.metadata.version(name)}"
        platforms = [f"--platform={platform}_aarch64" for platform in PLATFORMS]
        run(
            [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--only-binary=:all:", *platforms,
             "--python-version=3.11", "--implementation=cp", "--abi=cp311", "--abi=abi3", "--abi=none",
             "--dest", str(folder / name), wanted]
        )  # fmt: skip
        found[wanted] = next((folder / name).glob("*.whl"))
    return found


def describe_processor(root: Path, count: int) -> None:
    """Write what the runtimes read about the processor: ``/proc/cpuinfo`` and ``/sys/devices/system/cpu``.

    They read these files by path; without ARM entries there they crash or take the slow kernels.
    """
    (root / "proc").mkdir()
    (root / "proc" / "cpuinfo").write_text("".join(PROCESSOR.format(index=index) for index in range(count)))
    system = root / "sys" / "devices" / "system" / "cpu"
    all_of_them = f"0-{count - 1}\n"
    files = {"online": all_of_them, "possible": all_of_them, "present": all_of_them, "kernel_max": f"{count - 1}\n"}
    for index in range(count):
        core = f"cpu{index}"
        files |= {
            f"{core}/cpufreq/cpuinfo_max_freq": "2400000\n", f"{core}/cpufreq/cpuinfo_min_freq": "1500000\n",
            f"{core}/topology/core_id": f"{index}\n", f"{core}/topology/physical_package_id": "0\n",
            f"{core}/topology/core_siblings_list": all_of_them, f"{core}/topology/thread_siblings_list": f"{index}\n",
            f"{core}/topology/core_cpus_list": f"{index}\n", f"{core}/topology/package_cpus_list": all_of_them,
            f"{core}/regs/identification/midr_el1": MIDR,
        }  # fmt: skip
    for name, content in files.items():
        (system / name).parent.mkdir(parents=True, exist_ok=True)
        (system / name).write_text(content)


def compile_counter(library: Path) -> bool:
    """Compile the emulator's plugin that counts instructions; return whether there is a C compiler."""
    compiler = shutil.which("cc")
    if compiler is None:
        print("no C compiler here: the device will not count instructions", file=sys.stderr)
        return False
    source = Path(__file__).with_name("instruction_counter.c")
    run([compiler, "-O2", "-Wall", "-Wextra", "-shared", "-fPIC", "-o", str(library), str(source)])
    return True


def run(command: list[str], **options: object) -> None:
    """Run ``command``; what it prints goes to stderr. Ends this program with its error where it fails."""
    finished = subprocess.run(command, stdout=sys.stderr, check=False, **options)  # type: ignore[call-overload]
    if finished.returncode != 0:
        sys.exit(f"failed with exit status {finished.returncode}: {' '.join(command)}")


def make(root: Path, mirror: str) -> None:
    """Make the device in ``root``, which appears when it is whole and both runtimes could be imported in it."""
    root.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root.parent, prefix=f".{root.name}-") as folder:
        scratch, made = Path(folder), Path(folder, "root")
        made.mkdir()
        for package in debian_packages(mirror, scratch):
            run(["dpkg", "--extract", str(package), str(made)])
        wheels = runtime_wheels(scratch)
        for wheel in wheels.values():
            with zipfile.ZipFile(wheel) as archive:
                archive.extractall(made / SITE)
        (made / "usr" / "bin" / "python3").symlink_to("python3.11")
        describe_processor(made, max(4, os.cpu_count() or 1))
        counts = compile_counter(made / COUNTER)
        about = {"schema": 1, "cpu": CPU, "suite": SUITE, "runtimes": sorted(wheels), "counts": counts}
        (made / ABOUT).write_text(json.dumps(about, indent=2) + "\n")
        check = "import numpy, onnxruntime, ai_edge_litert.interpreter"
        run([*emulator(made), str(made / "usr" / "bin" / "python3.11"), "-c", check])
        if root.exists():
            shutil.rmtree(root)
        made.rename(root)


def main() -> None:
    """Parse arguments, make the folder, print its path."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--root", type=Path, default=default_root(), help="where to make it, default %(default)s")
    parser.add_argument("--mirror", default="http://deb.debian.org/debian", help="Debian mirror, default %(default)s")
    parser.add_argument("--replace", action="store_true", help="make it again where it exists")
    options = parser.parse_args()
    if options.root.exists() and not options.replace:
        sys.exit(f"{options.root} exists; --replace makes it again")
    for needed, package in (("apt-get", "apt"), ("dpkg", "dpkg"), ("qemu-aarch64-static", "qemu-user-static")):
        if shutil.which(needed) is None:
            sys.exit(f"no {needed} here: install the package {package}")
    if not KEYRING.is_file():
        sys.exit(f"no {KEYRING} here: install the package debian-archive-keyring")
    make(options.root.resolve(), options.mirror)
    print(options.root)


if __name__ == "__main__":
    main()
