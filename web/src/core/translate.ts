/** Translate an area of a scene, window by window; the pixels are those of the whole scene's mosaic. */

import type { Pixels } from "../input/nodata";
import type { Scene } from "../input/scene";
import { Blender } from "./blend";
import { decode, encoder, encodingFor } from "./encoder";
import type { Engine } from "./engine";
import { mirrorInvalid } from "./fill";
import type { Stretch, Unit } from "./signature";
import { DEFAULT_OVERLAP, touching, windowGrid, type Area } from "./windows";

/** Largest area, in pixels: the page holds its pixels in memory. */
export const LARGEST_AREA = 25_000_000;

/** Finished rows: RGBA bytes, alpha 255 where valid and 0 elsewhere. */
export interface Rows {
  /** First row, in the area. */
  readonly start: number;
  readonly rgba: Uint8ClampedArray<ArrayBuffer>;
  /** The model's input as grey levels, likewise. */
  readonly grey: Uint8ClampedArray<ArrayBuffer>;
}

export interface Job {
  readonly scene: Scene;
  readonly engine: Engine;
  readonly unit: Unit;
  readonly stretch: Stretch | null;
  readonly area: Area;
  /** Called with the number of finished windows and of all. */
  readonly onProgress: (done: number, all: number) => void;
  readonly onRows: (rows: Rows) => void;
  readonly stopped?: () => boolean;
}

/** Run all windows of an area that have a valid pixel. Rows are given as they are finished, from top to bottom. */
export async function translate(job: Job): Promise<void> {
  const { scene, engine, area, unit } = job;
  const { window, channels } = engine.signature;
  const { height, width } = scene.raster;
  const encode = encoder(encodingFor(unit, scene.sample(unit), engine.signature, job.stretch));
  const grid = windowGrid(height, width, window, DEFAULT_OVERLAP);
  const rows = touching(grid.rows, window, ...area.rows);
  const cols = touching(grid.cols, window, ...area.cols);
  const left = grid.cols[cols[0]];
  const read: [number, number] = [left, Math.min(grid.cols[cols[cols.length - 1]] + window, width)];
  const blender = new Blender(grid, area);
  let done = 0;
  for (const row of rows) {
    const top = grid.rows[row];
    const pixels = await scene.read({ rows: [top, Math.min(top + window, height)], cols: read }, unit);
    for (const col of cols) {
      if (job.stopped?.()) return;
      const sar = cut(pixels, grid.cols[col] - left, window, channels, encode);
      if (sar) blender.add(row, col, await engine.run(sar));
      job.onProgress(++done, rows.length * cols.length);
    }
    const strip = blender.finish(row);
    if (!strip) continue;
    const inside = { from: (strip.start - top) * pixels.width + area.cols[0] - left, columns: area.cols[1] - area.cols[0] };
    const count = strip.rows * inside.columns;
    const rgba = painted(strip.rows, inside, pixels, (channel, at) => strip.image[channel * count + at]);
    const grey = painted(strip.rows, inside, pixels, (_channel, _at, from) => encode(pixels.values[from]));
    job.onRows({ start: strip.start - area.rows[0], rgba, grey });
  }
}

/** Encode the pixels of a window, a lone band to all channels, and fill invalid ones; null if none is valid. */
function cut(
  { values, valid, width }: Pixels,
  left: number,
  side: number,
  channels: number,
  encode: (value: number) => number,
): Float32Array | null {
  const image = new Float32Array(side * side);
  const usable = new Uint8Array(side * side);
  const rows = Math.min(side, values.length / width);
  const columns = Math.min(side, width - left);
  let count = 0;
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      const from = y * width + left + x;
      if (!valid[from]) continue;
      image[y * side + x] = encode(values[from]);
      usable[y * side + x] = 1;
      count += 1;
    }
  }
  if (count === 0) return null;
  if (count < usable.length) mirrorInvalid(image, usable, side);
  if (channels === 1) return image;
  const sar = new Float32Array(channels * image.length);
  for (let channel = 0; channel < channels; channel++) sar.set(image, channel * image.length);
  return sar;
}

/** Decode the valid pixels of some rows to RGBA. `value` gets channel, place in the rows, and place in `pixels`. */
function painted(
  rows: number,
  { from, columns }: { from: number; columns: number },
  { valid, width }: Pixels,
  value: (channel: number, at: number, from: number) => number,
): Uint8ClampedArray<ArrayBuffer> {
  const rgba = new Uint8ClampedArray(4 * rows * columns);
  for (let at = 0; at < rows * columns; at++) {
    const place = from + Math.floor(at / columns) * width + (at % columns);
    if (!valid[place]) continue;
    for (let channel = 0; channel < 3; channel++) rgba[4 * at + channel] = decode(value(channel, at, place));
    rgba[4 * at + 3] = 255;
  }
  return rgba;
}
