"""A generator's scores on held-out pairs, beside two baselines that look at no neighbourhood."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click
import numpy as np
from numpy.typing import NDArray

from bench.harness import table
from sar2optical.engines import Engine, EngineOptions, open_engine
from sar2optical.models.zoo import bundled

if TYPE_CHECKING:
    from sar2optical.training.evaluate import Predict


@click.command("scores")
@click.argument("train", type=click.Path(path_type=Path))
@click.argument("held_out", type=click.Path(path_type=Path))
@click.option("--model", type=click.Path(path_type=Path), help="The bundled generator where not given.")
def main(train: Path, held_out: Path, model: Path | None) -> None:
    """Score on HELD_OUT; the baselines are fitted on TRAIN (both: folders with s1/ and s2/)."""
    from sar2optical.data.pairs import find_pairs, read_pair
    from sar2optical.training.evaluate import linear_fit, mean_colour, score

    fitted = [read_pair(pair) for pair in find_pairs(train)]
    chips = [read_pair(pair) for pair in find_pairs(held_out)]
    rows = [["", "PSNR, dB", "SSIM", "chips"]]
    candidates: dict[str, Predict] = {"mean colour": mean_colour(fitted), "linear fit": linear_fit(fitted)}
    for precision in ("fp32", "auto"):
        with open_engine(model or bundled(), options=EngineOptions(precision=precision)) as engine:
            candidates[f"{engine.signature.name} {engine.precision}"] = _prediction(engine)
            for name, predict in candidates.items():
                result = score(predict, chips, window=engine.signature.window)
                rows.append([name, f"{result.psnr:.2f}", f"{result.ssim:.3f}", str(result.chips)])
        candidates = {}
    click.echo(table(rows))


def _prediction(engine: Engine) -> Predict:
    def predict(sar: NDArray[np.uint8]) -> NDArray[np.float64]:
        given = (sar[None].astype(np.float32) / 127.5) - 1
        return np.asarray((engine.run(given)[0].astype(np.float64) + 1) * 127.5)

    return predict
