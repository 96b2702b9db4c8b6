"""`glmimage doctor`: what this machine can run, and how, before anything is downloaded."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..errors import GlmImageError
from .options import Device, Dtype, LossySwitches, Memory, Model

if TYPE_CHECKING:
    from ..config import Settings

GIB = 2**30
MIN_DISK_BYTES = 36 * GIB
REAL = "zai-org/GLM-Image"
ANSWER_S = 5.0
"""How long a database or a bucket gets."""
NO_SUCH_TABLE = "42P01"
LAST_LOOK_S = 0.2


def doctor(
    model: Model = None,
    device: Device = None,
    dtype: Dtype = None,
    memory: Memory = None,
    lossy: LossySwitches = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON document.")] = False,
) -> None:
    """Say what this machine can run, how it would be placed, and what is wrong; load nothing."""
    from ..config import load_settings

    problems: list[str] = []
    settings: Settings | None = None
    try:
        settings = load_settings(
            model=model, device=device, dtype=dtype, memory=memory, lossy=lossy
        )
    except GlmImageError as error:
        problems.append(_sentence(error))
    report: dict[str, Any] = {"machine": {}, "models": [], "problems": problems}
    if settings is not None:
        os.environ.update(settings.hub_environment())
        report["machine"] = _machine(settings, problems)
        names = dict.fromkeys([settings.model, "nano", REAL])
        report["models"] = [_model(name, settings, problems) for name in names]
        _check_environment(settings, problems)
        _check_folders(settings, problems)
        _check_service(settings, problems)
    if as_json:
        typer.echo(json.dumps(report))
    else:
        typer.echo("\n".join(_page(report)))
    if problems:
        raise typer.Exit(1)


def _machine(settings: Settings, problems: list[str]) -> dict[str, Any]:
    import torch

    from ..memory import choose_device, choose_dtypes, cpu_features, free_bytes

    machine: dict[str, Any] = {
        "torch": torch.__version__,
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "cpu_features": cpu_features(),
        "ram_free_bytes": free_bytes(torch.device("cpu")),
        "gpus": [
            {
                "name": torch.cuda.get_device_name(index),
                "bytes": torch.cuda.get_device_properties(index).total_memory,
                "free_bytes": free_bytes(torch.device("cuda", index)),
            }
            for index in range(torch.cuda.device_count())
        ],
    }
    try:
        device = choose_device(None if settings.device == "auto" else settings.device)
    except GlmImageError as error:
        problems.append(_sentence(error))
        return machine
    dtypes = choose_dtypes(device, settings.dtype)
    machine |= {"device": str(device), "dtype": str(dtypes.decode).removeprefix("torch.")}
    return machine


def _model(name: str, settings: Settings, problems: list[str]) -> dict[str, Any]:
    """Say whether a model's files are there, and how it would be placed."""
    from ..loading.checkpoint import Checkpoint
    from ..loading.hub import resolve_model

    found: dict[str, Any] = {"model": name, "files": "complete"}
    checkpoint = None
    try:
        checkpoint = Checkpoint(resolve_model(name, local_files_only=True))
        found["path"] = str(checkpoint.path)
        found["weights_bytes"] = sum(checkpoint.component_bytes().values())
    except GlmImageError as error:
        looks_remote = name.count("/") == 1 and not os.path.exists(name)
        if looks_remote:
            found["files"] = "not downloaded, or only partly"
            _check_disk(found, settings, problems, chosen=name == settings.model)
        else:
            found["files"] = _sentence(error)
            problems.append(_sentence(error))
        if name != REAL:
            return found
    found["plan"] = _plan(checkpoint, settings)
    if name == settings.model and "refused" in found["plan"]:
        problems.append(found["plan"]["refused"])
    return found


def _plan(checkpoint: Any, settings: Settings) -> dict[str, Any]:
    """Plan from the checkpoint's headers, or from the published sizes where it is not there."""
    import torch

    from ..loading.quantized import packed_bytes
    from ..lossy import Lossy
    from ..memory import (
        GLM_IMAGE,
        GLM_IMAGE_WIDTH,
        choose_device,
        choose_dtypes,
        free_bytes,
        plan_memory,
    )
    from ..stages import needs

    try:
        device = choose_device(None if settings.device == "auto" else settings.device)
        values = 10**10 if checkpoint is None else checkpoint.component_bytes(torch.int8)["prior"]
        dtypes = choose_dtypes(device, settings.dtype, values)
        lossy = Lossy.parse(settings.lossy)
        lossy.check_memory(settings.memory)
        weights = lossy.weights
        if checkpoint is not None:
            counted = needs(checkpoint, dtypes, weights)
        else:
            counted = GLM_IMAGE.scaled(dtypes.decode.itemsize / 2)
            if weights:
                width, whole = GLM_IMAGE_WIDTH, GLM_IMAGE_WIDTH**2 * dtypes.decode.itemsize
                counted = counted.packed(packed_bytes(width, width, weights) / whole)
        plan = plan_memory(counted, free_bytes(device), settings.memory)
    except GlmImageError as error:
        return {"refused": _sentence(error)}
    return {
        "memory": plan.mode,
        "why": plan.why,
        "device": str(device),
        "prior_dtype": str(dtypes.prior).removeprefix("torch."),
        "decoder_dtype": str(dtypes.decode).removeprefix("torch."),
        "largest_untiled_pixels": plan.vae_pixels,
        "prior_tokens_at_once": plan.kv_tokens,
    }


def _check_disk(
    found: dict[str, Any], settings: Settings, problems: list[str], *, chosen: bool
) -> None:
    import shutil

    from huggingface_hub import constants

    folder = Path(settings.cache_dir or constants.HF_HUB_CACHE).expanduser()
    free = shutil.disk_usage(_existing(folder)).free
    found |= {"download_to": str(folder), "disk_free_bytes": free}
    if not chosen:
        return
    if settings.offline:
        problems.append(
            f"{found['model']} is not on this machine, and downloads are switched off. "
            "Unset GLMIMAGE_OFFLINE for the first run."
        )
    elif free < MIN_DISK_BYTES:
        problems.append(
            f"{folder} has {free / GIB:.0f} GiB free, and {found['model']} needs about 35. "
            "Free some space, or name another disk with GLMIMAGE_CACHE_DIR."
        )


def _check_environment(settings: Settings, problems: list[str]) -> None:
    """Look for what makes a machine slower, or different, than it looks."""
    import torch

    if not torch.cuda.is_available() and Path("/proc/driver/nvidia").exists():
        built = "has no CUDA" if torch.version.cuda is None else "does not fit the driver"
        problems.append(
            f"There is an NVIDIA GPU here, but this PyTorch ({torch.__version__}) {built}. "
            'Install the build for your driver, see "Get Started" on the PyTorch site.'
        )
    threads, cores = torch.get_num_threads(), os.cpu_count() or 1
    if threads > cores:
        problems.append(
            f"PyTorch uses {threads} threads on {cores} cores, which is slower than {cores}. "
            f"Set OMP_NUM_THREADS={cores}."
        )


def _check_folders(settings: Settings, problems: list[str]) -> None:
    """See that what has to be written can be."""
    import tempfile

    folders = [("DATA_DIR", "anything", settings.data_dir)]
    if settings.files_url and "://" not in settings.files_url:
        folders.append(("FILES_URL", "files", Path(settings.files_url).expanduser().absolute()))
    for name, what, url, scheme in (
        ("DATABASE_URL", "its database", settings.database_url, "sqlite:///"),
        ("TRACES_URL", "traces", settings.traces_url, "file://"),
    ):
        if url and url.startswith(scheme):
            folders.append((name, what, Path(url.removeprefix(scheme)).absolute().parent))
    for name, what, folder in folders:
        try:
            # asking for permission is not enough: root is told yes on read-only disks
            with tempfile.TemporaryFile(dir=_existing(folder)):
                pass
        except OSError:
            problems.append(
                f"{folder} cannot be written, so the service cannot keep {what}. "
                f"Name another folder with GLMIMAGE_{name}."
            )


def _check_service(settings: Settings, problems: list[str]) -> None:
    """Try what `serve` does at its start, and collect what it refuses; nothing is left behind."""
    import tempfile

    from ..lora import check_lora_dir
    from ..server.guard import policy_from_settings
    from ..server.tls import prepare_tls

    with tempfile.TemporaryDirectory() as scratch:
        # what is made at the first start is made there
        elsewhere = settings.model_copy(update={"data_dir": Path(scratch)})
        checks: dict[tuple[str, ...], Callable[[], object]] = {
            ("host", "http_port", "https_port"): lambda: _try_to_listen(settings),
            (
                "terms_file",
                "moderation_url",
                "expansion_url",
                "reference_hosts",
                "webhook_hosts",
            ): lambda: policy_from_settings(settings),
            ("tls_cert", "tls_key", "tls_names"): lambda: prepare_tls(elsewhere),
            ("lora_dir",): lambda: check_lora_dir(settings.lora_dir),
            ("traces_url",): lambda: _try_to_trace(elsewhere),
            ("database_url", "database_direct_url"): lambda: asyncio.run(_try_database(settings)),
            ("files_url",): lambda: asyncio.run(_try_bucket(settings)),
        }
        for names, check in checks.items():
            try:
                check()
            except GlmImageError as error:
                problems.append(_placed(_sentence(error), settings, names))
            except OSError as error:
                problems.append(_placed(f"{error}.", settings, names))


def _try_to_listen(settings: Settings) -> None:
    """Listen for an instant, except where the server of this data folder does."""
    from ..server.process import bind, refuse_open_doors
    from ..server.serving import find_serving, reachable

    refuse_open_doors(settings)
    serving = find_serving(settings.data_dir)
    taken = {serving.http, serving.https} if serving is not None and serving.listens() else set()
    for scheme, port in (("http", settings.http_port), ("https", settings.https_port)):
        if reachable(settings, port) not in taken:
            bind(settings.host, port, scheme).close()


def _try_to_trace(settings: Settings) -> None:
    """Open what traces are sent with; a file of traces is not begun."""
    from ..telemetry.tracing import open_tracer

    address = settings.traces_url
    if address is not None and address.startswith("file://"):
        address = f"file://{settings.data_dir / 'traces'}"
    open_tracer(address, "glmimage-doctor").close()


async def _try_database(settings: Settings) -> None:
    """Connect to PostgreSQL; make and upgrade no tables. Raises what JobStore.open does."""
    from ..jobs import JobStore, StoreUnavailable

    direct = settings.database_direct_url
    if settings.store_url.startswith("sqlite") and direct is None:
        return  # whoever opens it upgrades it
    try:
        async with asyncio.timeout(ANSWER_S):
            store = await JobStore.open(settings.store_url, create=False, direct_url=direct)
            await store.close()
    except TimeoutError:
        raise StoreUnavailable(
            f"The database does not answer within {ANSWER_S:g} s.",
            hint="Is PostgreSQL running and the address right?",
        ) from None
    except StoreUnavailable as error:
        reported = getattr(error.__context__, "orig", None)
        if getattr(reported, "sqlstate", None) != NO_SUCH_TABLE:  # the first `serve` makes them
            raise


async def _try_bucket(settings: Settings) -> None:
    """List what is never there: it takes the address, the bucket and credentials, and no file."""
    from ..files import FilesError, open_file_store

    if "://" not in settings.files_address:
        return
    files, reason = open_file_store(settings.files_address), ""
    try:
        async with asyncio.timeout(ANSWER_S):
            await anext(files.list("probe"), None)
    except TimeoutError:
        reason = f"The bucket does not answer within {ANSWER_S:g} s."
    except FilesError as error:
        reason = error.message
    finally:
        await files.close()
        # its threads come back once more, and abort an interpreter that has ended meanwhile
        await asyncio.sleep(LAST_LOOK_S)
    if reason:
        hint = "Are the address, AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY right?"
        if "AWS_ACCESS_KEY_ID" not in os.environ:
            hint = "Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, if this machine is lent none."
        raise FilesError(reason, hint=hint)


def _placed(sentence: str, settings: Settings, names: Sequence[str]) -> str:
    """Put in front which variables a sentence is about, unless it says so itself."""
    values = {name: str(getattr(settings, name) or "") for name in names}
    given = [name for name, value in values.items() if value]
    quoted = [name for name in given if values[name] in sentence]
    variables = ", ".join(f"GLMIMAGE_{name.upper()}" for name in quoted or given)
    return sentence if "GLMIMAGE_" in sentence else f"{variables}: {sentence}"


def _existing(folder: Path) -> Path:
    """Return the folder, or the one above it that is there."""
    return next(path for path in (folder, *folder.parents) if path.exists())


def _page(report: dict[str, Any]) -> list[str]:
    machine, lines = report["machine"], []
    if machine:
        features = ", ".join(machine["cpu_features"]) or "no wide instructions known"
        lines += [
            f"PyTorch {machine['torch']}; {machine['cores']} cores ({features})",
            f"{machine['ram_free_bytes'] / GIB:.1f} GiB of memory free",
            *(
                f"GPU {index}: {gpu['name']}, {gpu['free_bytes'] / GIB:.1f} of "
                f"{gpu['bytes'] / GIB:.1f} GiB free"
                for index, gpu in enumerate(machine["gpus"])
            ),
        ]
        if "device" in machine:
            lines.append(f"Pictures are made on {machine['device']}, in {machine['dtype']}.")
        if not machine["gpus"]:
            lines.append("No CUDA GPU is usable.")
    for model in report["models"]:
        lines += ["", f"{model['model']}: {model['files']}"]
        if "path" in model:
            lines.append(f"  in {model['path']}, {model['weights_bytes'] / 1e9:.2f} GB of weights")
        if "download_to" in model:
            free = model["disk_free_bytes"] / GIB
            lines.append(f"  would be kept in {model['download_to']}, {free:.0f} GiB free there")
        plan = model.get("plan", {})
        if "refused" in plan:
            lines.append(f"  cannot run here: {plan['refused']}")
        elif plan:
            side = int(plan["largest_untiled_pixels"] ** 0.5)
            tiles = "no picture is" if side >= 2048 else f"pictures above {side} px square are"
            lines += [
                f"  would run {plan['memory']}: {plan['why']}.",
                f"  prior in {plan['prior_dtype']}, decoder in {plan['decoder_dtype']}",
                f"  {tiles} decoded in tiles",
            ]
    problems = report["problems"]
    lines += ["", *(f"Problem: {problem}" for problem in problems)]
    return lines if problems else [*lines, "Nothing is wrong."]


def _sentence(error: GlmImageError) -> str:
    return " ".join(f"{error} {error.hint}".split())
