"""`sar2opt-eval`: score generators on held-out pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from sar2optical.cli.common import (
    CONTEXT,
    chip_options,
    engine_options,
    name_variables,
    reading,
    refuse_bands_of_pictures,
    reports_errors,
    set_up_logging,
)
from sar2optical.errors import OptionWithoutEffect

if TYPE_CHECKING:
    from sar2optical.data.pairs import Pair, Reading
    from sar2optical.engines import Engine
    from sar2optical.evaluation.evaluate import Evaluation
    from sar2optical.evaluation.predictors import Predict

_PATH = click.Path(path_type=Path)


@click.command(context_settings=CONTEXT)
@click.argument("models", nargs=-1, required=True, metavar="MODEL...")
@click.argument("data", type=_PATH)
@click.option("--fit-on", type=_PATH, help="Folder of pairs to fit the baselines on.  [DATA]")
@click.option("--split", type=_PATH, help="Split file (JSON); only one split of DATA is scored.")
@click.option(
    "--part",
    type=click.Choice(["train", "val", "test"]),
    help="Split to score.  [test]",
)
@engine_options
@chip_options
@click.option(
    "--band",
    "bands",
    multiple=True,
    help="Band of the SAR chips: polarisation, index from 1, or both (2=VH); repeat for each band of the model.",
)
@click.option(
    "--window",
    type=click.IntRange(16),
    metavar="N",
    help="Side of the windows to score in pixels, at most the model's; smaller windows are padded by reflection.  "
    "[the model's]",
)
@click.option(
    "--features", type=_PATH, help="Feature extractor for FID and KID: TorchScript (.pt, .ts) or ONNX (.onnx)."
)
@click.option(
    "--lpips",
    type=_PATH,
    help="Network for LPIPS: TorchScript (.pt, .ts) or ONNX (.onnx), from truth and prediction, uint8 (N, 6, H, W), "
    "to distances (N, 1).",
)
@click.option(
    "--shifts",
    is_flag=True,
    help="Also compare the outputs of shifted windows: 6 runs per chip, on at most 16 chips per class.",
)
@click.option("--limit", type=click.IntRange(1), help="Score only the first N chips.", metavar="N")
@click.option("--json", "json_out", type=_PATH, help="Write all figures to this file (.json).")
@click.option("--markdown", "markdown_out", type=_PATH, help="Write the tables to this file (.md).")
@click.option(
    "--picture",
    "picture_out",
    type=_PATH,
    help="Draw the first model's best, median and worst windows to this file (.png).",
)
@click.option("--overwrite", is_flag=True, help="Replace existing outputs.")
@click.option("-q", "--quiet", is_flag=True, help="Print only warnings and errors.")
@click.version_option(package_name="sar2optical")
@reports_errors
def main(models: tuple[str, ...], data: Path, quiet: bool, **options: Any) -> None:
    """Score MODELs on the pairs in DATA, and per-pixel baselines and the SAR image itself for comparison.

    A MODEL is a file (.onnx, .pth) or the name of a published generator (pix2pix_gen_180, bundled). DATA holds s1/
    and s2/, or one folder with both per terrain class.
    """
    set_up_logging(-1 if quiet else 0)
    from sar2optical._utils.files import write_output
    from sar2optical.evaluation import report

    if options["part"] and not options["split"]:
        raise OptionWithoutEffect(
            f"--part {options['part']} has no effect without --split: give the split file with --split"
        )
    outs = {kind: options[f"{kind}_out"] for kind in ("json", "markdown", "picture") if options[f"{kind}_out"]}
    _check_outputs(outs, overwrite=options["overwrite"])
    _require(
        *(["matplotlib"] if "picture" in outs else []), *(["torch", "torchmetrics"] if options["features"] else [])
    )
    with ExitStack() as stack:
        engines = _engines(models, options, stack)
        evaluation, draw = _evaluation(engines, data, options, quiet=quiet)
        if "picture" in outs:
            write_output(outs["picture"], draw())
    if "json" in outs:
        write_output(outs["json"], report.as_json(evaluation).encode())
    if "markdown" in outs:
        write_output(outs["markdown"], report.markdown(evaluation).encode())
    if not quiet:
        click.echo(report.text(evaluation))


def _engines(models: tuple[str, ...], options: dict[str, Any], stack: ExitStack) -> dict[str, Engine]:
    """Open every model, by a name that includes backend and precision."""
    from sar2optical.engines import EngineOptions, open_engine
    from sar2optical.engines.registry import resolve, variants
    from sar2optical.errors import OptionError

    if len(set(models)) < len(models):
        raise OptionError(f"{max(models, key=models.count)}: model given twice: give each model once")
    settings = EngineOptions(device=options["device"], precision=options["precision"])
    engines: dict[str, Engine] = {}
    for model in models:
        reference = resolve(model)
        file = variants(reference).get(settings.precision, reference)
        engine = stack.enter_context(open_engine(file, backend=options["backend"], options=settings))
        runs = f"{engine.backend} {engine.precision}"
        name = f"{Path(model).name}, {runs}"
        if name in engines:  # two files of one name
            name = f"{model}, {runs}"
        engines[name] = engine
    sides = {engine.signature.window for engine in engines.values()}
    if len(sides) > 1:
        raise OptionError(
            f"the models have different windows ({' and '.join(map(str, sorted(sides)))} pixels): "
            "score them one at a time"
        )
    return engines


def _evaluation(
    engines: dict[str, Engine], data: Path, options: dict[str, Any], *, quiet: bool
) -> tuple[Evaluation, Callable[[], bytes]]:
    """Score the models; also return a function that draws the picture while the engines are open."""
    from sar2optical.data.exposure import refuse_misfit
    from sar2optical.data.splits import load_pairs
    from sar2optical.evaluation.evaluate import evaluate, read_samples
    from sar2optical.evaluation.fid import open_features, open_lpips
    from sar2optical.evaluation.predictors import RADAR, baselines, engine_prediction
    from sar2optical.evaluation.shift_runs import spread_pairs, with_shifts

    signatures = [engine.signature for engine in engines.values()]
    window = _window(signatures[0].window, options["window"])
    aligned = options["aligned"]
    refuse_bands_of_pictures(options["bands"], aligned=aligned)
    chosen = {name: options[name] for name in ("units", "optical_max", "rgb", "bands")}
    how = reading(signatures[0], window, **chosen)
    pairs = load_pairs(data, options["split"], options["part"] or "test", aligned=aligned)
    refuse_misfit(pairs, how)
    pairs = pairs[: options["limit"]]
    features = open_features(options["features"]) if options["features"] else None
    fit_on = options["fit_on"]
    fitting = load_pairs(fit_on, aligned=aligned) if fit_on else pairs
    predictions = {name: engine_prediction(engine) for name, engine in engines.items()}

    shifted = spread_pairs(pairs) if options["shifts"] else []
    with _progress(len(fitting) + len(pairs) + len(shifted), hidden=quiet) as on_progress:
        samples = _counted(_alike(read_samples(fitting, fit_on or data, how), signatures), on_progress)
        fitted = baselines((sample.chips for sample in samples), "" if fit_on else "of these chips")
        evaluation = evaluate(
            {**predictions, **fitted, **RADAR},
            _alike(read_samples(pairs, data, how), signatures),
            window=window,
            features=features,
            lpips=open_lpips(options["lpips"]) if options["lpips"] else None,
            on_progress=on_progress,
        )
        samples = _alike(read_samples(shifted, data, how), signatures)
        evaluation = with_shifts(evaluation, predictions, samples, on_progress=on_progress)
    first = next(iter(predictions))
    return evaluation, lambda: _picture(evaluation, pairs, how, first, predictions[first])


def _window(of_model: int, asked: int | None) -> int:
    from sar2optical.errors import OptionError

    if asked is not None and asked > of_model:
        raise OptionError(
            f"--window is {asked}, but the model takes {of_model}: give at most {of_model}, or remove --window"
        )
    return asked or of_model


def _counted(samples: Iterator[Any], on_progress: Callable[[], None]) -> Iterator[Any]:
    for sample in samples:
        yield sample
        on_progress()


def _alike(samples: Iterator[Any], signatures: list[Any]) -> Iterator[Any]:
    """Refuse values that the models encode differently: chips are encoded once for all models."""
    from sar2optical.errors import OptionError

    kinds = {(signature.bands, signature.unit, signature.stretch) for signature in signatures}
    for sample in samples:
        if len(kinds) > 1 and sample.chips.sar.dtype != "uint8":
            raise OptionError(
                f"{sample.name}: not an 8-bit chip, and the models need {len(kinds)} different encodings of it: "
                "score the models one at a time"
            )
        yield sample


def _picture(evaluation: Evaluation, pairs: list[Pair], how: Reading, name: str, predict: Predict) -> bytes:
    from sar2optical.data.augment import grid_windows
    from sar2optical.data.pairs import read_pair
    from sar2optical.evaluation import report

    shown = []
    for which, at in report.chosen(evaluation.windows):
        sar, real = grid_windows(read_pair(pairs[at.chip], how), evaluation.window)[at.window]
        position = (
            f", window {at.window}" if evaluation.windows[-1].window or len(evaluation.windows) > len(pairs) else ""
        )
        label = f"{which}: {at.psnr:.2f} dB\n{Path(evaluation.chips[at.chip]).stem}{position}"
        shown.append(report.Shown(label, sar, predict(sar), real))
    return report.picture(shown, f"{name}: windows by PSNR, from {len(evaluation.windows)}")


@contextmanager
def _progress(total: int, *, hidden: bool) -> Iterator[Callable[[], None]]:
    from tqdm import tqdm

    with tqdm(total=total, unit=" chips", desc="scoring", leave=False, disable=hidden or None) as bar:
        yield lambda: bar.update() and None


def _require(*libraries: str) -> None:
    """Refuse before scoring, which may take hours, if a library is missing."""
    from sar2optical.errors import BackendNotInstalled

    missing = [name for name in libraries if find_spec(name) is None]
    if missing:
        raise BackendNotInstalled(
            f"--picture or --features needs {', '.join(missing)}: pip install 'sar2optical[train]'"
        )


def _check_outputs(outs: Mapping[str, Path], *, overwrite: bool) -> None:
    from sar2optical._utils.files import refuse_existing
    from sar2optical.errors import OptionError

    if len(set(outs.values())) < len(outs):
        raise OptionError(
            f"{max(outs.values(), key=list(outs.values()).count)}: two outputs have this path: give one of them "
            "another path"
        )
    for kind, path in outs.items():
        if kind == "picture" and path.suffix.lower() != ".png":
            raise OptionError(f"{path}: a picture must be a PNG file: give a name that ends in .png")
        refuse_existing(path, overwrite=overwrite)


name_variables(main, "SAR2OPT_EVAL")
